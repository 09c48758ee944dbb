package advise

import (
	"maps"
	"slices"
	"time"
)

// Memory is what must outlive the one who advises. It is JSON in Redis: it is not taken on
// trust. The zero Memory knows no past, and nothing holds it back.
type Memory struct {
	Began  time.Time            `json:"began,omitzero"`   // when the watch of this fleet began: no in within a cooldown of it
	At     time.Time            `json:"at,omitzero"`      // of the last advice
	Wanted int                  `json:"wanted,omitempty"` // hosts; 0: not known yet
	Asked  int                  `json:"asked,omitempty"`  // hosts, by the last out: those that are not there yet are coming
	Out    time.Time            `json:"out,omitzero"`     // the last out
	In     time.Time            `json:"in,omitzero"`      // the last in
	Waits  time.Time            `json:"waits,omitzero"`   // since when an out waits for hosts that are coming
	Fewer  time.Time            `json:"fewer,omitzero"`   // since when fewer hosts are there than are wanted
	More   time.Time            `json:"more,omitzero"`    // since when more are
	Peak   Peak                 `json:"peak,omitzero"`
	Orders map[string]Order     `json:"orders,omitempty"` // by the host's id
	Sheds  map[string]time.Time `json:"sheds,omitempty"`  // by the host's id: what it sheds is elsewhere by then
	Told   Told                 `json:"told,omitzero"`
}

// Order is what a host is to do for the fleet's sake, until it has done it: a host that
// drains when it is gone, one that resumes when it is ready.
type Order struct {
	Boot   string    `json:"boot,omitempty"`
	Resume bool      `json:"resume,omitempty"` // else drain
	Seen   bool      `json:"seen,omitempty"`   // it has been seen draining
	Since  time.Time `json:"since"`
}

// Peak is the most connections of the last one to two windows.
type Peak struct {
	Since  time.Time `json:"since"`  // of the window
	Now    int64     `json:"now"`    // in this window
	Before int64     `json:"before"` // in the one before
}

// Told is what the one who starts and removes hosts was last told with success.
type Told struct {
	At     time.Time `json:"at,omitzero"` // zero: nothing yet
	Wanted int       `json:"wanted,omitempty"`
	Asked  int       `json:"asked,omitempty"`
	Out    time.Time `json:"out,omitzero"` // the out and the in that it was about
	In     time.Time `json:"in,omitzero"`
	Remove []string  `json:"remove,omitempty"` // hosts that are still there
}

const (
	forgetAfter = time.Hour       // without advice: how many hosts were wanted then says nothing now
	gathering   = 2 * time.Minute // after the beginning: hosts that have not reported yet come to light
	peakWindow  = 2 * time.Minute // clients that are cut off are back within it
)

// Start returns the Memory of one who begins to watch a fleet: an in waits for a cooldown.
func Start(now time.Time) Memory { return Memory{Began: now} }

// recall returns a copy of m, at now. Times that are still to come are of a server whose
// clock was ahead, or of a stranger: they are now.
func (m Memory) recall(now time.Time) Memory {
	m.Orders, m.Sheds, m.Told.Remove = maps.Clone(m.Orders), maps.Clone(m.Sheds), slices.Clone(m.Told.Remove)
	for _, t := range []*time.Time{&m.Began, &m.At, &m.Out, &m.In, &m.Waits, &m.Fewer, &m.More, &m.Peak.Since, &m.Told.At} {
		if t.After(now) {
			*t = now
		}
	}
	for id, o := range m.Orders {
		if o.Since.After(now) {
			o.Since = now
			m.Orders[id] = o
		}
	}
	for id, until := range m.Sheds {
		if !until.After(now) || until.Sub(now) > 2*longestShed {
			delete(m.Sheds, id)
		}
	}
	m.Wanted, m.Asked = min(max(m.Wanted, 0), mostHosts), min(max(m.Asked, 0), mostHosts)
	if !m.At.IsZero() && now.Sub(m.At) > forgetAfter {
		m.Wanted, m.Waits, m.Fewer, m.More, m.Peak = 0, time.Time{}, time.Time{}, time.Time{}, Peak{}
		if !m.Began.IsZero() {
			m.Began = now
		}
	}
	return m
}

// peak notes the number of connections, and returns the most of the last window and the
// part of this one that has passed.
func (m *Memory) peak(connections int64, now time.Time, window time.Duration) int64 {
	p := &m.Peak
	switch age := now.Sub(p.Since); {
	case age >= 2*window:
		*p = Peak{Since: now}
	case age >= window:
		*p = Peak{Since: now, Before: p.Now}
	}
	p.Now = max(p.Now, connections)
	return min(max(p.Now, p.Before, 0), mostCount)
}

// News reports whether a, which belongs to m, has something that the one who starts and
// removes hosts was not told yet, or too long ago: a host that it was to remove is told
// again after p.StartTimeout.
func (p Policy) News(m Memory, a Advice) bool {
	t := m.Told
	unheard := func(id string) bool { return !slices.Contains(t.Remove, id) || m.At.Sub(t.At) >= p.StartTimeout }
	switch {
	case slices.ContainsFunc(a.Remove, unheard):
		return true
	case t.At.IsZero():
		return a.Direction != None
	default:
		return !m.Out.Equal(t.Out) || !m.In.Equal(t.In) || m.Wanted != t.Wanted
	}
}

// Telling is what to note in m, then or later, once a was told.
func (m Memory) Telling(a Advice) Told {
	return Told{At: m.At, Wanted: m.Wanted, Asked: m.Asked, Out: m.Out, In: m.In, Remove: slices.Clone(a.Remove)}
}
