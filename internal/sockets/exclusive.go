package sockets

import "fmt"

// exclusiveSockets are bound so that no other can join: one for all slots, or one on
// the port of each slot.
type exclusiveSockets struct{ *boundAddress }

func (b exclusiveSockets) bind(slot int) (*socket, error) {
	end, l := b.at.end, b.listener
	if b.at.mode == ModeEach {
		end.port += slot
		l.Port = end.port
	}
	if end.port > maxPort {
		return nil, fmt.Errorf("cannot listen for slot %d of %s: its port would be %d, and 65535 is the last: start lower", slot, b.listener, end.port)
	}
	m, err := end.listen(l, exclusive)
	if err != nil {
		return nil, end.explain(l, err)
	}
	m.slot = slot
	if end.port == 0 {
		err = b.setPort(m)
	}
	return m, err
}
