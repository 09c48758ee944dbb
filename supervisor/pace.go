package supervisor

import "time"

// What one worker may say on its channel or its notify socket. Beyond that it is
// not read for a while: its own writes wait, and the master's processor time goes
// to the others. An honest worker never gets near.
const (
	messagesPerSecond = 1000
	bytesPerSecond    = 8 << 20
)

// breather is the least that a reader rests once it is ahead of its pace, so that
// a flood wakes it twenty times a second and not for each message.
const breather = 50 * time.Millisecond

// pace is a token bucket that holds one second's worth. It begins full. It is for
// one goroutine.
type pace struct {
	perSecond float64
	left      float64 // below 0: taken in advance
	at        time.Time
}

func newPace(perSecond int, now time.Time) pace {
	return pace{perSecond: float64(perSecond), left: float64(perSecond), at: now}
}

// take takes n and returns how long to rest before taking more; 0 for not at
// all.
func (p *pace) take(n int, now time.Time) time.Duration {
	p.left = min(p.perSecond, p.left+now.Sub(p.at).Seconds()*p.perSecond) - float64(n)
	p.at = now
	if p.left >= 0 {
		return 0
	}
	return max(breather, time.Duration(-p.left/p.perSecond*float64(time.Second)))
}

// rest waits, and reports whether done was not closed meanwhile.
func rest(d time.Duration, done <-chan struct{}) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-done:
		return false
	}
}
