package systemd_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// A program that knows nothing of forkd, under the hardened unit: its bind(2) is captured,
// what it listens on is learned and stored, and the successor of a killed master serves
// there on the very same sockets.
func TestLearnedHardened(t *testing.T) {
	a := newApp(t, settings{})
	a.shipped("hardened.conf")
	a.write("/etc/forkd/"+a.name+".toml", fmt.Sprintf(`command = ["/usr/bin/python3", "-m", "http.server", "--bind", "127.0.0.1", "%d"]
directory = "/etc/forkd"
workers = 2
[update]
monitor = "200ms"
[drain]
timeout = "5s"
`, a.port))
	a.start()
	serves := func() {
		t.Helper()
		answer, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", a.port))
		if err != nil || answer.StatusCode != http.StatusOK {
			t.Fatal(answer, err)
		}
		answer.Body.Close()
	}
	old := a.ready(0)
	serves()
	if text := a.must(forkdPath, "describe", a.name); !strings.Contains(text, "learned") {
		t.Errorf("describe says\n%s", text)
	}
	a.must("systemctl", "reload", a.unit)
	old = a.ready(0)
	serves()
	before := listening(t, a.port)
	kill(t, old.PID)
	a.ready(old.PID)
	serves()
	if now := listening(t, a.port); fmt.Sprint(now) != fmt.Sprint(before) {
		t.Errorf("sockets %v, before %v", now, before)
	}
}
