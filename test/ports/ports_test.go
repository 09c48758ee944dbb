package ports

import (
	"errors"
	"net"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// A port is given once, whoever asks, and again after it was released.
func TestTaken(t *testing.T) {
	port, release, err := Take(3)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := take(port+2, 1); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("given twice: %v", err)
	}
	release()
	again, err := take(port, 3)
	if err != nil {
		t.Fatal(err)
	}
	again()
}

// Neither a listener nor a connection that has just ended leaves a port free.
func TestInUse(t *testing.T) {
	port := Free(t, 1)
	ln, err := net.Listen("tcp4", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil {
		t.Fatal(err)
	}
	if err := isFree(port); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("beside a listener: %v", err)
	}
	client, err := net.Dial("tcp4", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	served, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	served.Close() // first, so TIME_WAIT is at this end
	if _, err := client.Read(make([]byte, 1)); err == nil {
		t.Error("the client read something")
	}
	client.Close()
	if err := isFree(port); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("beside TIME_WAIT: %v", err)
	}
}
