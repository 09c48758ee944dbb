package systemd

import (
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseListen(t *testing.T) {
	const pid = 42
	for _, c := range []struct {
		forPID, count, names string
		want                 []FD
		wrong                string // of the error; "": none
	}{
		{"", "", "", nil, ""},
		{"", "3", "", nil, ""},
		{"41", "1", "http", nil, ""},
		{"41", "nonsense", "a:b", nil, ""}, // somebody else's trouble
		{"42", "", "", nil, ""},
		{"42", "1", "", []FD{{3, ""}}, ""},
		{"42", "2", "http:", []FD{{3, "http"}, {4, ""}}, ""},
		{"42", "2", "http.0:http.1", []FD{{3, "http.0"}, {4, "http.1"}}, ""},
		{"42", "2", "http", nil, "1 names for 2 descriptors"},
		{"42", "1", "a:b", nil, "2 names for 1 descriptors"},
		{"42", "0", "", nil, `"0" is not a number of descriptors`},
		{"42", "-1", "", nil, `"-1" is not a number of descriptors`},
		{"42", "65537", "", nil, "from 1 to 65536"},
		{"42", "99999999999999999999", "", nil, "from 1 to 65536"},
		{"42", strings.Repeat("9", 1<<20), "", nil, `"99999999999999999999999999999999"...`},
		{"42", "two", "", nil, `"two" is not`},
		{"42x", "1", "", nil, `cannot read LISTEN_PID: "42x" is not`},
		{"0", "1", "", nil, `cannot read LISTEN_PID`},
		{"-42", "1", "", nil, `cannot read LISTEN_PID`},
	} {
		got, err := parseListen(c.forPID, c.count, c.names, pid)
		switch {
		case c.wrong == "" && (err != nil || !slices.Equal(got, c.want)):
			t.Errorf("%q %q %q: %v, %v; want %v", c.forPID, c.count, c.names, got, err, c.want)
		case c.wrong != "" && (err == nil || got != nil || !strings.Contains(err.Error(), c.wrong) || len(err.Error()) > 250):
			t.Errorf("%q %.40q %q: %v, %v; want an error with %q", c.forPID, c.count, c.names, got, err, c.wrong)
		}
	}
}

func FuzzListenEnv(f *testing.F) {
	for _, seed := range [][3]string{
		{"", "", ""},
		{"42", "1", "http"},
		{"42", "2", "http.0:http.1"},
		{"42", "3", "::"},
		{"41", "1", "http"},
		{"42", "-1", ""},
		{"42", "65536", ""},
		{"42", "65537", ""},
		{"042", "+1", "a"},
		{"\x00", "1", ":"},
		{"42", "1", "a\nREADY=1"},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	f.Fuzz(func(t *testing.T, forPID, count, names string) {
		fds, err := parseListen(forPID, count, names, 42)
		if err != nil {
			if fds != nil || strings.ContainsAny(err.Error(), "\n\x00\x1b") || len(err.Error()) > 300 {
				t.Errorf("%v, %q", fds, err)
			}
			return
		}
		for i, fd := range fds {
			if fd.Number != 3+i || strings.Contains(fd.Name, ":") {
				t.Errorf("descriptor %d is %+v", i, fd)
			}
		}
		if n, _ := strconv.Atoi(count); fds != nil && (n != len(fds) || len(fds) > maxFDs) {
			t.Errorf("%d descriptors for LISTEN_FDS=%q", len(fds), count)
		}
	})
}

// helper is the variable that makes this test binary the process that sockets
// are passed to, or a service's main process: it says what it finds.
const helper = "SYSTEMD_TEST_HELPER"

func TestMain(m *testing.M) {
	switch os.Getenv(helper) {
	case "":
		os.Exit(m.Run())
	case "listen":
		sayListen()
	case "unit":
		sayUnit()
	case "store":
		sayStored()
	}
}

func sayListen() {
	if os.Getenv("LISTEN_PID") == "self" {
		os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid())) // the parent can't know it
	}
	fds, err := ListenFDs()
	for _, fd := range fds {
		flags, _ := unix.FcntlInt(uintptr(fd.Number), unix.F_GETFD, 0)
		os.Stdout.WriteString(strconv.Itoa(fd.Number) + "=" + fd.Name + " cloexec=" + strconv.FormatBool(flags == unix.FD_CLOEXEC) + "\n")
	}
	if err != nil {
		os.Stdout.WriteString("error: " + err.Error() + "\n")
	}
	for _, variable := range os.Environ() {
		if strings.HasPrefix(variable, "LISTEN_") {
			os.Stdout.WriteString("left: " + variable + "\n")
		}
	}
	again, err := ListenFDs()
	if again != nil || err != nil {
		os.Stdout.WriteString("taken twice\n")
	}
}

// passed runs this binary with descriptors from 3 on.
func passed(t *testing.T, files int, env ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(append(os.Environ(), helper+"=listen", "GORACE=atexit_sleep_ms=0"), env...)
	for range files {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		w.Close()
		defer r.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, r)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

func TestListenFDsOfThisProcess(t *testing.T) {
	if got, want := passed(t, 2, "LISTEN_PID=self", "LISTEN_FDS=2", "LISTEN_FDNAMES=http.1:http.0", "LISTEN_PIDFDID=7"),
		"3=http.1 cloexec=true\n4=http.0 cloexec=true\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := passed(t, 1, "LISTEN_PID=1", "LISTEN_FDS=1"); got != "" {
		t.Errorf("of somebody else: %q", got)
	}
	got := passed(t, 1, "LISTEN_PID=self", "LISTEN_FDS=9")
	if !strings.HasPrefix(got, "error: cannot use the sockets that were passed: LISTEN_FDS says 9, but descriptor ") || strings.Count(got, "\n") != 1 {
		t.Errorf("not open: %q", got)
	}
	got = passed(t, 1, "LISTEN_PID=self", "LISTEN_FDS=1", "LISTEN_FDNAMES=a:b")
	if !strings.HasPrefix(got, "error: cannot read LISTEN_FDNAMES") || strings.Count(got, "\n") != 1 {
		t.Errorf("malformed: %q", got)
	}
}
