package fleet

import (
	"context"
	"fmt"
	"net"

	"github.com/alicebob/miniredis/v2"
)

// ServeEmbedded is a small Redis that serves ln, which it closes, until ctx ends.
// It is for trying things out: it keeps nothing, and knows no passwords.
func ServeEmbedded(ctx context.Context, ln net.Listener) error {
	m := miniredis.NewMiniRedis()
	m.ClockTTL(true)
	own, err := m.Dial() // which starts it without a listener of its own
	if err != nil {
		_ = ln.Close()
		return fmt.Errorf("cannot start the embedded Redis: %v", err)
	}
	_ = own.Close()
	defer m.Close()
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
	for {
		conn, err := ln.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return nil
		case err != nil:
			_ = ln.Close()
			return fmt.Errorf("the embedded Redis cannot accept connections: %v", err)
		}
		m.Server().ServeConn(conn)
	}
}
