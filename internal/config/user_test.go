package config

import (
	"slices"
	"testing"
)

func TestUserWithoutRoot(t *testing.T) {
	const refused = ": only root can run workers as somebody else: start forkd as root, or leave user and group out"
	for _, test := range []struct{ content, want string }{
		{"user = 'root'\n", "forkd.toml:1:8: user" + refused},
		{"group = 'root'\n", "forkd.toml:1:9: group" + refused},
		{"user = 'nobody'\n", ""},
		{"user = 65534\ngroup = 65534\n", ""},
	} {
		h := newHost(t)
		h.uid, h.gid = 65534, 65534
		write(t, h.directory+"/forkd.toml", test.content+"command = ['x']")
		got, err := h.load(&Flags{}, "", nil)
		if test.want == "" && (err != nil || got.User != nil) {
			t.Errorf("%s: %v, %+v", test.content, err, got.User)
		}
		if test.want != "" && (err == nil || err.Error() != test.want) {
			t.Errorf("%s:\ngot  %v\nwant %s", test.content, err, test.want)
		}
	}
}

func TestUserAndGroup(t *testing.T) {
	for _, test := range []struct {
		content  string
		uid, gid uint32
	}{
		{"user = 'nobody'\n", 65534, 65534},
		{"user = 'nobody'\ngroup = 'daemon'\n", 65534, 1},
		{"group = 'daemon'\n", 0, 1},
		{"user = 12345\ngroup = 23456\n", 12345, 23456},
	} {
		got, _, err := loadFile(t, test.content+"command = ['x']")
		if err != nil {
			t.Fatal(err)
		}
		who := got.User
		if who == nil || who.UID != test.uid || who.GID != test.gid || len(who.Groups) == 0 || who.Groups[0] != test.gid {
			t.Errorf("%s: %+v", test.content, who)
		}
		if test.gid == 1 && (slices.Contains(who.Groups, 65534) || slices.Contains(who.Groups, 0)) {
			t.Errorf("%s: the user's own group is still among %v", test.content, who.Groups)
		}
	}
}
