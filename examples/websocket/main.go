// Command websocket is a chat server for long-lived connections that forkd runs, on one
// host or many: users of one room talk, whatever worker of whatever host each is
// connected to. All that must outlive a worker is in Redis.
//
//	go build -o examples/websocket/websocket ./examples/websocket
//	WS_REDIS_URL=redis://127.0.0.1 forkd run -c examples/websocket/forkd.toml
//
// Alone, without forkd and Redis, on port 8080:
//
//	./websocket
//
// Without WS_REDIS_URL each worker has a small Redis of its own: then only users of one
// worker meet, and sessions end with it.
//
// # What clients see
//
// A client connects to ws://HOST/ROOM?session=ID&last=ID, all of which is optional, and
// sends and receives the JSON objects of package chat:
//
//	< {"type":"welcome","session":"k3j...","host":"web-1","slot":"0",...}
//	< {"type":"joined","room":"lobby","id":"1790000000000-7"}
//	> {"say":"hello"}
//	< {"type":"message","room":"lobby","id":"1790000000000-8","from":"5f2c...","text":"hello"}
//
// It keeps the session's ID and the ID of the newest message, and gives both when it
// connects again, to any worker of any host: its session goes on, and the messages that
// it has missed (of the newest 128 of the room) are sent again, in order and once. The
// numbers have no gaps, so a client sees what is lost. A session's ID is a secret: others see
// a name made of it.
//
// Close codes:
//
//	1012  the host stops, or no other worker goes on: connect again after a random short time
//	1013  full (FORKD's max_connections_per_host), shed to another host, or Redis does not answer:
//	      connect again after a random longer time
//	1002, 1003, 1007, 1009  not this protocol, not text, not UTF-8, over 4 KiB
//
// A client that does not answer a ping within -ping, or leaves 1 MiB unread, is cut off.
//
// # How it drains and sheds
//
// A worker that drains for a roll hands its clients over to the next worker, which goes on: the client sees
// nothing. What can't be handed over, at a stop all, is closed with 1012, evenly over -spread, so that not all
// come back in the same moment; with -spread 0 at forkd's pace, drain.shed_per_second.
// A shed closes those that this worker has for longest with 1013.
//
// # Why a bare net.Conn
//
// gobwas/ws reads frames from the connection itself, never more than a frame. What is known of a connection
// is the struct state, of some hundred bytes: with what has been read and not handled, and what is not
// written yet, so that a frame may be half read or half written when the connection moves. Messages that came
// meanwhile are read from the room's stream. One goroutine reads; another one writes while there is something to write.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/forkd/forkd/worker"
)

func main() {
	log.SetFlags(0)
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "websocket:", err)
		os.Exit(1)
	}
}

func run() error {
	hostname, _ := os.Hostname()
	listen := flag.String("listen", ":8080", "`address`, without forkd")
	host := flag.String("host", cmp.Or(os.Getenv("WS_HOST"), hostname), "`name` of this host, for clients (WS_HOST)")
	origins := flag.String("origins", os.Getenv("WS_ORIGINS"), "`URLs` whose pages may connect, with commas; none: those of the same host (WS_ORIGINS)")
	ping := flag.Duration("ping", 30*time.Second, "ping a client that is silent for so long")
	spread := flag.Duration("spread", 5*time.Second, "when draining, close clients over this time; 0: at forkd's pace")
	flag.Parse()

	w := worker.New()
	ln, err := w.Listen("ws", *listen)
	if err != nil {
		return err
	}
	redis.SetLogger(silent{})
	plane, err := openPlane(os.Getenv("WS_REDIS_URL"))
	if err != nil {
		return err
	}
	defer plane.close()
	s := &server{
		plane: plane, hub: newHub(plane), host: *host, slot: os.Getenv("FORKD_SLOT"), ping: *ping,
		counted: w.Request, handoff: w.Handoff,
	}
	if *origins != "" {
		s.origins = strings.Split(*origins, ",")
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go s.hub.run(ctx)
	w.OnShed(func(n int) {
		if w.Reason() != "" {
			s.paced.Add(int64(n))
			return
		}
		s.closeOldest(n, statusTryAgainLater, "elsewhere, please")
	})
	w.OnHandoff(func(conn net.Conn, state []byte) { s.goOn(ctx, conn, state) })
	go s.drain(w, *spread)
	return w.Serve(ln, func(ln net.Listener) error { return s.accept(ctx, ln) })
}

// silent is the log of go-redis: what it says comes with each error.
type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}
