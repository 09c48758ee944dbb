package sockets

import (
	"cmp"
	"maps"
	"slices"
)

// takers are the programs that have taken an address: each for its own slot, and for as long
// as it lives. Where programs of a set have, its other slots get no connections there, as
// nobody would accept them; of a learned one never.
type takers struct {
	living map[any]taker        // by Take's by
	left   map[int]*ListenerSet // slots whose taker has ended; their next program may take it again
	known  bool                 // somebody has had it
}

type taker struct {
	slot int
	set  *ListenerSet
}

// deserted reports whether it has been taken, and nobody has it any more.
func (t *takers) deserted() bool { return t.known && len(t.living)+len(t.left) == 0 }

func (t *takers) lives(fits func(taker) bool) bool {
	for _, one := range t.living {
		if fits(one) {
			return true
		}
	}
	return false
}

// of reports whether a program of the set has it, or has left its slot to the next.
func (t *takers) of(set *ListenerSet) bool {
	return slices.Contains(slices.Collect(maps.Values(t.left)), set) || t.lives(func(one taker) bool { return one.set == set })
}

func in(slot int) func(taker) bool { return func(t taker) bool { return t.slot == slot } }

// add reports whether the program has not taken it yet.
func (t *takers) add(by any, one taker) bool {
	if _, again := t.living[by]; again {
		return false
	}
	if t.living == nil {
		t.living = map[any]taker{}
	}
	t.living[by], t.known = one, true
	delete(t.left, one.slot)
	return true
}

// leave leaves it to the next program of a slot.
func (t *takers) leave(slot int, set *ListenerSet) {
	if t.left == nil {
		t.left = map[int]*ListenerSet{}
	}
	t.left[slot], t.known = set, true
}

// closeSlot forgets who has taken a slot's socket that is closed.
func (t *takers) closeSlot(slot int) {
	delete(t.left, slot)
	for by, one := range t.living {
		if one.slot == slot {
			delete(t.living, by)
		}
	}
}

// Ended says that a program which has taken sockets (Take's by) has ended, or accepts no
// more. What waits in their queues waits for the slot's next program, until Passed.
func (s *Set) Ended(by any) (err error) {
	for _, b := range s.bound {
		one, ok := b.takers.living[by]
		if !ok {
			continue
		}
		delete(b.takers.living, by)
		if !b.takers.lives(in(one.slot)) {
			b.takers.leave(one.slot, one.set)
		}
		err = cmp.Or(err, b.mode.steer())
	}
	return err
}

// Passed says that a slot's program, of a set, has had its time to take what the one before
// it, or another slot's, has taken. Where it has not, what waits there is reset: nobody would
// accept it. It returns the listeners that have gone, as no program has them any more.
func (s *Set) Passed(slot int, l *ListenerSet) (gone []Listener, err error) {
	for _, b := range s.bound {
		e, m := l.listenerAt(b), b.user(slot)
		if m == nil || !b.takers.known || b.takers.lives(in(slot)) {
			continue
		}
		takes := e == nil || e.asked.Learned || b.takers.of(l) // else it may have been passed the socket
		_, left := b.takers.left[slot]
		delete(b.takers.left, slot)
		if n, listens := m.waiting(); takes && (left || listens && n > 0) {
			err = cmp.Or(err, b.reject(slot))
		}
	}
	return s.abandoned(), err
}

// Awaited returns the inodes of the sockets that a program has taken and in whose queues
// connections wait.
func (s *Set) Awaited(by any) (inodes []uint32) {
	for _, b := range s.bound {
		if one, ok := b.takers.living[by]; ok {
			if m := b.user(one.slot); m != nil {
				if n, listens := m.waiting(); listens && n > 0 {
					inodes = append(inodes, uint32(inode(m.fd)))
				}
			}
		}
	}
	return inodes
}

// Closed says that a program has closed a socket that it had taken, by its inode. What waits
// there is reset, unless another program has the slot's socket. It returns the listeners
// that have gone, as no program has them any more.
func (s *Set) Closed(by any, socket uint32) (gone []Listener, err error) {
	for _, b := range s.bound {
		one, ok := b.takers.living[by]
		if !ok {
			continue
		}
		if m := b.user(one.slot); m == nil || uint32(inode(m.fd)) != socket {
			continue
		}
		delete(b.takers.living, by)
		if !b.takers.lives(in(one.slot)) {
			err = cmp.Or(err, b.reject(one.slot))
		}
	}
	return s.abandoned(), err
}

// reject resets what waits in a slot's own queue of TCP, and steers round it.
func (b *boundAddress) reject(slot int) error {
	m := b.user(slot)
	if m == nil || m.isUnix() || len(b.usersOf(m)) > 1 {
		return nil
	}
	err := b.mode.steer() // first: no more come
	return cmp.Or(err, b.mode.flush(m), b.mode.steer())
}

// abandoned drops what programs had taken and none has any more from all sets: the address
// of a learned listener that no set declares, and returns the listeners that have none left;
// and a family of a declared one of which they have another.
func (s *Set) abandoned() (gone []Listener) {
	deserted := filter(s.bound, func(b *boundAddress) bool {
		return b.takers.deserted() && !slices.ContainsFunc(s.sets, func(l *ListenerSet) bool {
			e := l.listenerAt(b)
			return e != nil && !e.asked.Learned
		})
	})
	for _, l := range s.sets {
		gone = append(gone, l.retain(false, func(e *served, f family) bool { return !e.asked.Learned || !slices.Contains(deserted, f.boundAddress) })...)
		l.retain(true, func(e *served, f family) bool {
			another := slices.ContainsFunc(e.families, func(f family) bool { return f.taken && !f.takers.deserted() })
			return !another || !f.taken || !f.takers.deserted()
		})
	}
	var names []string // one that several sets had is told of once
	return filter(gone, func(l Listener) bool {
		told := slices.Contains(names, l.Name)
		names = append(names, l.Name)
		return !told && !slices.ContainsFunc(s.sets, func(other *ListenerSet) bool { return other.HasLearned(l) })
	})
}
