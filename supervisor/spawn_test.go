package supervisor

import (
	"os"
	"strings"
	"testing"
)

// What is forkd's own goes to nobody, the session of who started the master not to
// another user, and all else to everybody.
func TestInherited(t *testing.T) {
	own := strings.Fields("FORKD_REDIS_URL FORKD_RUNTIME_DIR LISTEN_FDS")
	session := strings.Fields("XDG_RUNTIME_DIR XDG_SESSION_ID SUDO_USER SSH_AUTH_SOCK DBUS_SESSION_BUS_ADDRESS MAIL KRB5CCNAME DISPLAY TMUX")
	program := strings.Fields("PATH LANG LS_COLORS RAILS_ENV STATE_DIRECTORY CREDENTIALS_DIRECTORY XDGX MAILER")
	for _, names := range [][]string{own, session, program} {
		for _, name := range names {
			t.Setenv(name, "value")
		}
	}
	self := uint32(os.Geteuid())
	for _, c := range []struct {
		who     string
		user    *User
		session bool
	}{
		{"the master's user", nil, true},
		{"the master's user by name", &User{UID: self}, true},
		{"another user", &User{UID: self + 1}, false},
	} {
		got := map[string]bool{}
		for _, entry := range inherited(c.user) {
			name, _, _ := strings.Cut(entry, "=")
			got[name] = true
		}
		for _, of := range []struct {
			names []string
			want  bool
		}{{own, false}, {session, c.session}, {program, true}} {
			for _, name := range of.names {
				if got[name] != of.want {
					t.Errorf("%s: %s is passed on: %v, want %v", c.who, name, got[name], of.want)
				}
			}
		}
	}
}
