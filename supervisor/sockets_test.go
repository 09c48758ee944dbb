package supervisor

import (
	"io/fs"
	"reflect"
	"testing"

	"github.com/forkd/forkd/internal/sockets"
)

func TestListenerOwner(t *testing.T) {
	plain := Listener{Network: "unix", Path: "/run/app.sock"}
	for _, c := range []struct {
		l     Listener
		cfg   Config
		perm  fs.FileMode
		owner *sockets.Owner
	}{
		{plain, Config{Umask: -1}, 0, nil},
		{plain, Config{Umask: 0o027}, 0o750, nil},
		{Listener{Network: "unix", Perm: 0o666}, Config{Umask: 0o027}, 0o666, nil},
		{plain, Config{Umask: -1, User: &User{UID: 33, GID: 44}}, 0, &sockets.Owner{UID: 33, GID: 44}},
		{Listener{Network: "tcp"}, Config{Umask: 0o027, User: &User{UID: 33}}, 0, nil},
	} {
		got := c.l
		giveTo(&got, c.cfg)
		if got.Perm != c.perm || !reflect.DeepEqual(got.Owner, c.owner) {
			t.Errorf("%+v: mode %v, owner %+v", c, got.Perm, got.Owner)
		}
	}
}
