package sockets

import "cmp"

// takers are the programs that have taken a learned address: each for its own slot, and for
// as long as it lives. The other slots get no connections there, as nobody would accept
// them.
type takers struct {
	living map[any]taker        // by Take's by
	left   map[int]*ListenerSet // slots whose taker has ended; their next program may take it again
}

type taker struct {
	slot int
	set  *ListenerSet
}

// any reports whether one lives, or has left its slot to the next, that fits.
func (t *takers) any(fits func(taker) bool) bool { return t.lives(fits) || t.hasLeft(fits) }

func (t *takers) lives(fits func(taker) bool) bool {
	for _, one := range t.living {
		if fits(one) {
			return true
		}
	}
	return false
}

func (t *takers) hasLeft(fits func(taker) bool) bool {
	for slot, set := range t.left {
		if fits(taker{slot, set}) {
			return true
		}
	}
	return false
}

func of(slot int) func(taker) bool { return func(t taker) bool { return t.slot == slot } }

// add reports whether the program has not taken it yet.
func (t *takers) add(by any, one taker) bool {
	if _, again := t.living[by]; again {
		return false
	}
	if t.living == nil {
		t.living, t.left = map[any]taker{}, map[int]*ListenerSet{}
	}
	t.living[by] = one
	delete(t.left, one.slot)
	return true
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

// Ended says that a program which has taken sockets (Take's by) has ended. What waits in
// their queues waits for the slot's next program, until Passed.
func (s *Set) Ended(by any) (err error) {
	for _, b := range s.bound {
		one, ok := b.takers.living[by]
		if !ok {
			continue
		}
		delete(b.takers.living, by)
		if !b.takers.lives(of(one.slot)) {
			b.takers.left[one.slot] = one.set
		}
		err = cmp.Or(err, b.mode.steer())
	}
	return err
}

// Passed says that a slot's program has had its time to take what the one before it had
// taken. Where it has not, what waits there is reset: nobody would accept it. It returns the
// listeners that have gone, as no program has them any more.
func (s *Set) Passed(slot int) (gone []Listener, err error) {
	for _, b := range s.bound {
		if _, left := b.takers.left[slot]; left {
			delete(b.takers.left, slot)
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
		if !b.takers.lives(of(one.slot)) {
			err = cmp.Or(err, b.reject(one.slot))
		}
	}
	return s.abandoned(), err
}

// reject resets what waits in a slot's own queue, and steers round it.
func (b *boundAddress) reject(slot int) error {
	m := b.user(slot)
	if m == nil || len(b.usersOf(m)) > 1 {
		return nil
	}
	err := b.mode.steer() // first: no more come
	return cmp.Or(err, b.mode.flush(m), b.mode.steer())
}

// abandoned drops the learned listeners of each set that its programs had taken, and none
// has any more.
func (s *Set) abandoned() (gone []Listener) {
	for _, l := range s.sets {
		gone = append(gone, l.dropLearned(func(f family) bool {
			return !f.taken || f.takers.any(func(t taker) bool { return t.set == l })
		})...)
	}
	return gone
}
