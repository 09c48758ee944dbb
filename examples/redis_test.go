package examples_test

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// redisServer is a real redis-server, on a unix socket of the test's own.
type redisServer struct {
	url    string
	client *redis.Client
	socket string
	guard  *exec.Cmd
	hold   io.Closer
}

// guardScript kills the server when its standard input ends: when the test closes it, or
// is no more.
const guardScript = `exec 3<&0; redis-server "$@" </dev/null 3<&- & exec 2>/dev/null; read -r _ <&3; kill -9 $!; wait $!`

func startRedis(t *testing.T) *redisServer {
	t.Helper()
	r := &redisServer{socket: filepath.Join(t.TempDir(), "s")}
	r.url = "unix://" + r.socket
	r.client = redis.NewClient(&redis.Options{Network: "unix", Addr: r.socket, Protocol: 2})
	r.start(t)
	t.Cleanup(func() { r.client.Close(); r.stop() })
	return r
}

func (r *redisServer) start(t *testing.T) {
	t.Helper()
	r.guard = exec.Command("sh", "-c", guardScript, "guard", "--port", "0", "--unixsocket", r.socket,
		"--dir", filepath.Dir(r.socket), "--save", "", "--appendonly", "no", "--logfile", "log")
	hold, err := r.guard.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	r.hold = hold
	if err := r.guard.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "redis-server", func() error { return r.client.Ping(context.Background()).Err() })
}

// stop kills it, as a power cut would.
func (r *redisServer) stop() {
	r.hold.Close()
	_ = r.guard.Wait()
	os.Remove(r.socket)
}

// waitFor waits until check returns nil.
func waitFor(t *testing.T, what string, check func() error) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("waiting for %s: %v", what, err)
		}
	}
}
