package control

import (
	"context"
	"fmt"
	"os/user"
	"strconv"
)

// Caller says who sent the request that a context belongs to: "alice (pid 4711)", by the
// credentials of its connection (unix(7), SO_PEERCRED); "" where there is none.
func Caller(ctx context.Context) string {
	c, ok := ctx.Value(connKey{}).(*conn)
	if !ok || c.peer == nil {
		return ""
	}
	return c.peer.caller
}

// name finds out what the peer's user is called. It reads a file: the loop must not.
func (p *peer) name() {
	who := "uid " + strconv.Itoa(int(p.Uid))
	if u, err := user.LookupId(strconv.Itoa(int(p.Uid))); err == nil {
		who = u.Username
	}
	p.caller = fmt.Sprintf("%s (pid %d)", who, p.Pid)
}
