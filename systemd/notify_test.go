package systemd

import (
	"net"
	"path/filepath"
	"testing"
	"time"
)

func TestNotifierSendsInOrder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	t.Setenv("NOTIFY_SOCKET", path)

	n := NewNotifier()
	said := []string{"STATUS=starting", "READY=1\nSTATUS=2/2 workers ready", "STOPPING=1"}
	for _, state := range said {
		n.Tell(state)
	}
	n.Close()

	for _, want := range said {
		buf := make([]byte, 1024)
		if err := manager.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		got, err := manager.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		if string(buf[:got]) != want {
			t.Errorf("got %q, want %q", buf[:got], want)
		}
	}
}

func TestNotifierWithoutManager(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	n := NewNotifier()
	for range 10_000 {
		n.Tell("READY=1")
	}
	n.Close()
}
