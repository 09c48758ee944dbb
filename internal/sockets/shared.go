package sockets

// shared is one socket of TCP for all slots, which nobody can join.
type shared struct{ plain }

func (c shared) bind(int) (*socket, error) {
	m, err := c.at.end.listenAlone(c.listener)
	if err != nil {
		return nil, err
	}
	if c.at.end.port, err = boundPort(m.fd); err != nil {
		m.close()
		return nil, c.at.end.explain(c.listener, err)
	}
	c.listener.Port = c.at.end.port
	return m, nil
}
