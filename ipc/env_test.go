package ipc

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPrivate(t *testing.T) {
	private := strings.FieldsSeq(`LISTEN_FDS LISTEN_PID LISTEN_FDNAMES LISTEN_PIDFDID NOTIFY_SOCKET WATCHDOG_USEC
		WATCHDOG_PID FORKD_APP FORKD_SLOT FORKD_CHANNEL_FD FORKD_PAGE_FD FORKD_MAX_CONNECTIONS FORKD_RUNTIME_DIR FORKD_REDIS_URL FORKD_LATER NODE_CHANNEL_FD
		NODE_CHANNEL_SERIALIZATION_MODE NODE_UNIQUE_ID NODE_APP_INSTANCE SERVER_STARTER_PORT EINHORN_FD_0`)
	for key := range private {
		if !Private(key) {
			t.Errorf("%s leaks to the workers", key)
		}
	}
	for key := range strings.FieldsSeq("PATH PORT LISTEN_ADDRESS NODE_ENV FORKDX WATCHDOG") {
		if Private(key) {
			t.Errorf("%s is kept from the workers", key)
		}
	}
}

func TestInherited(t *testing.T) {
	none := Passed{Channel: -1, Page: -1}
	for _, c := range []struct {
		name, env string
		want      Passed
		wrong     string // within the error
	}{
		{name: "alone", want: none},
		{
			name: "all", env: "LISTEN_PID=7 LISTEN_FDS=2 LISTEN_FDNAMES=http:admin FORKD_CHANNEL_FD=5 FORKD_PAGE_FD=6 FORKD_APP=shop FORKD_SLOT=1 FORKD_SLOTS=4 FORKD_GENERATION=3 FORKD_MAX_CONNECTIONS=250",
			want: Passed{Sockets: []Socket{{3, "http"}, {4, "admin"}}, Channel: 5, Page: 6, Slots: 4, MaxConnections: 250},
		},
		{name: "another's", env: "LISTEN_PID=8 LISTEN_FDS=2 FORKD_CHANNEL_FD=5", want: none},
		{name: "nobody's sockets", env: "LISTEN_FDS=2 FORKD_CHANNEL_FD=3", want: Passed{Channel: 3, Page: -1}},
		{name: "no names", env: "LISTEN_PID=7 LISTEN_FDS=2 LISTEN_FDNAMES=a", want: Passed{Sockets: []Socket{{3, "a"}, {4, ""}}, Channel: -1, Page: -1}},
		{name: "not a number", env: "LISTEN_PID=7 LISTEN_FDS=two", want: none, wrong: `LISTEN_FDS="two"`},
		{name: "too many", env: "LISTEN_PID=7 LISTEN_FDS=5000", want: none, wrong: "0 to 4096"},
		{name: "standard input", env: "FORKD_CHANNEL_FD=0", want: none, wrong: `FORKD_CHANNEL_FD="0": want a number from 3`},
		{
			name: "a socket's", env: "LISTEN_PID=7 LISTEN_FDS=2 FORKD_CHANNEL_FD=4 FORKD_PAGE_FD=5",
			want: Passed{Sockets: []Socket{{3, ""}, {4, ""}}, Channel: -1, Page: 5}, wrong: "after those of the sockets",
		},
		{name: "one for two", env: "FORKD_CHANNEL_FD=3 FORKD_PAGE_FD=3", want: Passed{Channel: 3, Page: -1}, wrong: "of its own"},
		{name: "no connection at all", env: "FORKD_MAX_CONNECTIONS=0", want: none, wrong: `FORKD_MAX_CONNECTIONS="0": want a number from 1`},
		{name: "negative", env: "FORKD_PAGE_FD=-3", want: none, wrong: `FORKD_PAGE_FD="-3"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			env := map[string]string{}
			for pair := range strings.FieldsSeq(c.env) {
				key, value, _ := strings.Cut(pair, "=")
				env[key] = value
			}
			got, err := Inherited(func(key string) (string, bool) { v, ok := env[key]; return v, ok }, 7)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if (err != nil) != (c.wrong != "") || err != nil && !strings.Contains(err.Error(), c.wrong) {
				t.Errorf("error %v, want one with %q", err, c.wrong)
			}
		})
	}
}

// Whatever an environment says, what comes of it are descriptors that were not
// the process's own before, each for one thing, and few.
func FuzzPassed(f *testing.F) {
	f.Add("7", "2", "http:admin", "5", "6", "0", "2", "1")
	f.Add("8", "2", "", "3", "4", "", "", "")
	f.Add("7", "4096", ":::", "3", "3", "-1", "9999999999999999999", "+1")
	f.Add("7", "0x2", "a:b:c", " 5", "1e3", "\xff", "0", "00")
	f.Add("", "", "", "", "", "", "", "")
	f.Fuzz(func(t *testing.T, owner, fds, names, channel, page, slot, slots, generation string) {
		env := map[string]string{
			EnvListenPID: owner, EnvListenFDs: fds, EnvListenFDNames: names, EnvChannelFD: channel, EnvPageFD: page,
			EnvSlot: slot, EnvSlots: slots, EnvGeneration: generation, EnvMaxConnections: generation,
		}
		for key, value := range env {
			if value == "" {
				delete(env, key)
			}
		}
		p, err := Inherited(func(key string) (string, bool) { v, ok := env[key]; return v, ok }, 7)
		if err != nil && len(err.Error()) > 1000 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
		if owner != "7" && len(p.Sockets) > 0 || len(p.Sockets) > maxFDs || p.Slots < 0 || p.MaxConnections < 0 {
			t.Errorf("%+v", p)
		}
		used := map[int]bool{0: true, 1: true, 2: true}
		for i, s := range p.Sockets {
			if s.FD != FirstFD+i || strings.Contains(s.Name, ":") {
				t.Errorf("socket %d: %+v", i, s)
			}
			used[s.FD] = true
		}
		for _, fd := range []int{p.Channel, p.Page} {
			if fd < -1 || fd >= 0 && used[fd] {
				t.Errorf("descriptor %d twice: %+v", fd, p)
			}
			if fd >= 0 {
				used[fd] = true
			}
		}
	})
}
