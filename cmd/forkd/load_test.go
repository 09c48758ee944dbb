package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// loadFor bounds a load that nobody ends.
const loadFor = 5 * time.Minute

// loadHTTP asks a server until SIGINT: load ADDRESS, a unix socket's where it has a
// slash. Half of its clients keep their connections, the others open one for each
// request; none ever tries again. It says "answers N failed M", and each failure
// on a line of its own. With a second argument, until-refused, a client
// ends by itself when nobody listens any more; with never-close, each keeps its first
// connection, and its end is a failure; with idle, it asks nothing more there.
func loadHTTP() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, loadFor)
	defer cancel()
	l := loader{address: os.Args[1], network: "tcp"}
	l.idle = slices.Contains(os.Args, "idle")
	untilRefused, neverClose := slices.Contains(os.Args, "until-refused"), l.idle || slices.Contains(os.Args, "never-close")
	if strings.Contains(l.address, "/") {
		l.network = "unix"
	}
	var clients sync.WaitGroup
	for n := range 8 {
		clients.Go(func() {
			for ctx.Err() == nil {
				switch err := l.converse(ctx, n%2 == 0 || neverClose); {
				case errors.Is(err, syscall.ECONNREFUSED) && untilRefused:
					return
				case err == nil && neverClose && ctx.Err() == nil:
					l.fail(errors.New("the connection was closed"))
				case err != nil:
					l.fail(err)
				}
			}
		})
	}
	clients.Wait()
	fmt.Printf("answers %d failed %d\n", l.answers.Load(), len(l.failures))
	for _, failure := range l.failures {
		fmt.Println(failure)
	}
}

type loader struct {
	network, address string
	idle             bool // one request, then silence
	answers          atomic.Int64
	mu               sync.Mutex
	failures         []string
}

func (l *loader) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failures = append(l.failures, time.Now().Format("15:04:05.000 ")+err.Error())
}

// converse asks on one connection: once, or until the server closes it. The error
// says which request of the connection failed.
func (l *loader) converse(ctx context.Context, keep bool) (err error) {
	asked := 0
	defer func() {
		if err != nil {
			err = fmt.Errorf("request %d of its connection: %w", asked, err)
		}
	}()
	conn, err := (&net.Dialer{Timeout: scriptTimeout}).Dial(l.network, l.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	request := "GET / HTTP/1.1\r\nHost: test\r\n"
	if !keep {
		request += "Connection: close\r\n"
	}
	for ctx.Err() == nil {
		asked++
		if err := conn.SetDeadline(time.Now().Add(scriptTimeout)); err != nil {
			return err
		}
		if _, err := io.WriteString(conn, request+"\r\n"); err != nil {
			return err
		}
		response, err := http.ReadResponse(in, nil)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, response.Body)
		response.Body.Close()
		if err != nil {
			return err
		}
		if response.StatusCode != http.StatusOK {
			return errors.New(response.Status)
		}
		l.answers.Add(1)
		time.Sleep(5 * time.Millisecond) // the machine is for forkd
		if response.Close {
			return nil
		}
		if l.idle {
			if err := conn.SetDeadline(time.Time{}); err != nil {
				return err
			}
			context.AfterFunc(ctx, func() { conn.Close() })
			if _, err := in.ReadByte(); ctx.Err() == nil {
				return fmt.Errorf("while idle: %w", err)
			}
		}
	}
	return nil
}
