package supervisor

import (
	"io/fs"
	"reflect"
	"testing"

	"github.com/forkd/forkd/internal/sockets"
)

// Every key of a listener reaches the sockets: a new one must be passed on too.
func TestListenerOf(t *testing.T) {
	l := Listener{
		Name: "app", Network: "unix", Host: "h", Port: 1, Path: "/run/app.sock", Perm: 0o640,
		Mode: "shared", Balance: "hash", Backlog: 2, Nonblocking: true, Freebind: true,
	}
	got := reflect.ValueOf(l.of(Config{Umask: 0o027, User: &User{UID: 33, GID: 44}}))
	want := reflect.ValueOf(l)
	for i := range want.NumField() {
		name := want.Type().Field(i).Name
		if want.Field(i).IsZero() {
			t.Errorf("the test gives no %s", name)
		}
		if !got.FieldByName(name).IsValid() || got.FieldByName(name).Interface() != want.Field(i).Interface() {
			t.Errorf("%s is not passed on", name)
		}
	}
}

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
		if got := c.l.of(c.cfg); got.Perm != c.perm || !reflect.DeepEqual(got.Owner, c.owner) {
			t.Errorf("%+v: mode %v, owner %+v", c, got.Perm, got.Owner)
		}
	}
}
