package sockets

import "fmt"

// each is a port for each slot. The client chooses the slot: nothing is steered.
type each struct{ plain }

func (e each) bind(slot int) (*socket, error) {
	end, l := e.at.end, e.listener
	end.port += slot
	l.Port = end.port
	if end.port > maxPort {
		return nil, fmt.Errorf("cannot listen for slot %d of %s: its port would be %d, and 65535 is the last: start lower", slot, e.listener, end.port)
	}
	m, err := end.listenAlone(l)
	if err == nil {
		m.slot = slot
	}
	return m, err
}
