package advise

import (
	"hash/fnv"
	"math"
	"time"
)

const (
	shedWindow  = 30 * time.Second // of one shed, but for very low rates
	longestShed = time.Hour
	settling    = 10 * time.Second // after a shed, until its clients are counted elsewhere
	shedJitter  = 0.2              // by which a shed may take longer, so that hosts don't act in step
)

// even advises hosts that are more than OverTolerance above the mean to shed down to it:
// not while a host that could take the clients is missing or coming, nor while the
// fleet is full, and together no faster than the hosts below the mean can each take
// ShedPerSecond.
func (c *count) even() {
	if len(c.serving) < 2 || c.coming > 0 || c.missing() > 0 || c.utilization(c.connections) > c.over() {
		return
	}
	mean := float64(c.served) / float64(c.capacity)
	var full []server
	below := 0
	for _, s := range c.serving {
		switch u := s.percent(); {
		case u > 100*mean+c.OverTolerance:
			full = append(full, s)
		case u < 100*mean:
			below++
		}
	}
	if below == 0 || len(full) == 0 {
		return
	}
	rate := c.ShedPerSecond * min(1, float64(below)/float64(len(full)))
	for _, s := range full {
		if _, under := c.m.Sheds[s.ID]; under {
			continue
		}
		shed := shedOf(s.ID, float64(s.connections)-mean*float64(s.capacity), rate, c.now)
		if shed.Count == 0 {
			continue
		}
		if c.m.Sheds == nil {
			c.m.Sheds = map[string]time.Time{}
		}
		c.m.Sheds[s.ID] = c.now.Add(time.Duration(shed.Seconds)*time.Second + settling)
		c.a.Shed = append(c.a.Shed, shed)
	}
}

// shedOf is the first part of what a host has too many, at a rate. Its Count is 0 if that
// is less than one connection, or takes too long.
func shedOf(id string, excess, rate float64, now time.Time) Shed {
	window := max(shedWindow.Seconds(), 1/rate)
	count := math.Floor(min(excess, rate*window, math.MaxInt32) + 1e-9)
	h := fnv.New32a()
	_, _ = h.Write(now.AppendFormat([]byte(id), time.RFC3339Nano))
	seconds := math.Ceil(count / rate * (1 + shedJitter*float64(h.Sum32()%1000)/1000))
	if count < 1 || seconds > longestShed.Seconds() {
		return Shed{}
	}
	return Shed{Host: id, Count: int(count), Seconds: int(seconds)}
}
