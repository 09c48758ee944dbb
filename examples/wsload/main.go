// Command wsload is many users of examples/websocket. It opens connections in batches,
// joins rooms, says something now and then, comes back after each loss with backoff and
// full jitter, and tells what it saw.
//
//	go build -o wsload ./examples/wsload
//	./wsload -users 10000 -rate 1000 -say 50 -sources 127.0.0.1-127.0.0.4 ws://127.0.0.1:8080/
//
// With several URLs each attempt takes one of them at random. One source address has
// ports for 28,000 connections to one server (net.ipv4.ip_local_port_range); a
// connection is a descriptor here and one there (ulimit -n).
//
// # What it prints
//
// A line each second, and a last one at the end, of what is not 0; with -json an object (see
// Report). While attempts fail a second line says why the last of them did.
//
//	open       connections that were welcomed and have not ended
//	lost       ended without a close frame, or silent for -silence: nobody should see one
//	restarted  closed with 1012
//	shed       closed with 1013 after the welcome
//	refused    closed with 1013, or answered 503, before the welcome
//	failed     no connection, or no handshake, or no welcome within -timeout, for another reason
//	closed     ended with another close code
//	back       from the end of a connection to the next welcome: p50, p99, the longest
//	missed     messages that never came, by their numbers; doubled: that came twice
//	unheard    messages of users that never came back to them, though a later one of the same
//	           connection did; repeated: that came back twice, with two numbers
//	resets     rooms whose numbers began again: Redis has lost them
//	forgotten  sessions that did not go on
//
// A user comes back after a random time between 0 and the backoff, which doubles with
// each attempt that failed, from -backoff up to -backoff-max; after 1013 it begins at
// eight times -backoff, as the server asked for more patience.
//
// # Orders, on standard input
//
//	users 500       that many users, from now on: they come at -rate, and go at once
//	say 100         messages a second, of all users together
//	leave web-1 50  half of the users that are connected to the host web-1 leave for good
//	quit            all leave; so does SIGINT. The end of standard input is no order
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type options struct {
	urls       []string
	users      int
	rate       float64 // new users a second
	batch      int
	roomSize   int
	prefix     string
	say        float64
	backoff    time.Duration
	backoffMax time.Duration
	timeout    time.Duration
	silence    time.Duration
	duration   time.Duration
	sources    []netip.Addr
	json       bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "wsload:", err)
		}
		os.Exit(1)
	}
}

func parse(args []string, stderr io.Writer) (o options, err error) {
	f := flag.NewFlagSet("wsload", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() {
		fmt.Fprintln(stderr, "wsload [flags] ws://HOST:PORT/ [ws://...]")
		f.PrintDefaults()
	}
	f.IntVar(&o.users, "users", 100, "users at the beginning")
	f.Float64Var(&o.rate, "rate", 500, "new users a second")
	f.IntVar(&o.batch, "batch", 50, "new users at a time")
	f.IntVar(&o.roomSize, "room", 10, "users in one room; 0: in none")
	f.StringVar(&o.prefix, "prefix", "load", "of the rooms' names")
	f.Float64Var(&o.say, "say", 1, "messages a second, of all users together")
	f.DurationVar(&o.backoff, "backoff", 500*time.Millisecond, "longest wait before the first attempt to come back")
	f.DurationVar(&o.backoffMax, "backoff-max", 30*time.Second, "longest wait before any attempt")
	f.DurationVar(&o.timeout, "timeout", 10*time.Second, "for the connection, the handshake and the welcome")
	f.DurationVar(&o.silence, "silence", 75*time.Second, "give a connection up when the server is silent for so long; it pings each 30 s")
	f.DurationVar(&o.duration, "duration", 0, "quit after this time; 0: when told to")
	sources := f.String("sources", "", "`addresses` to connect from, as 127.0.0.1,127.0.0.5-127.0.0.9")
	f.BoolVar(&o.json, "json", false, "print JSON")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if o.urls = f.Args(); len(o.urls) == 0 {
		return o, errors.New("which server? wsload [flags] ws://HOST:PORT/")
	}
	for _, text := range o.urls {
		if to, err := url.Parse(text); err != nil || to.Host == "" || to.Scheme != "ws" && to.Scheme != "wss" {
			return o, fmt.Errorf("%q is no URL of a WebSocket server: write ws://HOST:PORT/", text)
		}
	}
	if o.rate <= 0 || o.batch <= 0 || o.users < 0 || o.roomSize < 0 || o.say < 0 || o.backoff <= 0 || o.backoffMax < o.backoff {
		return o, errors.New("-rate, -batch and -backoff must be positive, -backoff-max not less than -backoff, others not negative")
	}
	o.sources, err = addresses(*sources)
	return o, err
}

// addresses reads a list of addresses and ranges.
func addresses(list string) (all []netip.Addr, err error) {
	const most = 4096
	for item := range strings.SplitSeq(list, ",") {
		if item == "" {
			continue
		}
		first, last, isRange := strings.Cut(item, "-")
		from, err := netip.ParseAddr(first)
		to := from
		if err == nil && isRange {
			to, err = netip.ParseAddr(last)
		}
		if err != nil || to.Less(from) || to.Is4() != from.Is4() {
			return nil, fmt.Errorf("cannot read source addresses %q", item)
		}
		for ; !to.Less(from); from = from.Next() {
			if all = append(all, from); len(all) > most {
				return nil, fmt.Errorf("more than %d source addresses", most)
			}
		}
	}
	return all, nil
}

// run is wsload, until ctx ends, the time is over or it is told to quit.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	ctx, quit := context.WithCancel(ctx)
	defer quit()
	if o.duration > 0 {
		ctx, quit = context.WithTimeout(ctx, o.duration)
		defer quit()
	}
	c := newCrowd(o)
	go func() {
		for in := bufio.NewScanner(stdin); in.Scan(); {
			if in.Text() == "quit" {
				quit()
				return
			}
			if err := c.obey(in.Text()); err != nil {
				fmt.Fprintln(stderr, "wsload:", err)
			}
		}
	}()
	go c.sayAll(ctx)
	go c.grow(ctx)
	began := time.Now()
	failed := int64(0)
	for tick := time.NewTicker(time.Second); ctx.Err() == nil; {
		select {
		case <-ctx.Done():
		case <-tick.C:
			r := c.report(time.Since(began))
			if err := r.print(stdout, o.json, r.Failed > failed); err != nil {
				return err
			}
			failed = r.Failed
		}
	}
	open := c.report(time.Since(began))
	c.setUsers(0)
	c.running.Wait()
	// What was open in the end says more than that nothing is now.
	r := c.report(time.Since(began))
	r.Final, r.Users, r.Open, r.Hosts = true, open.Users, open.Open, open.Hosts
	return r.print(stdout, o.json, true)
}

// obey follows an order.
func (c *crowd) obey(order string) error {
	words := strings.Fields(order)
	var number float64
	var err error
	if len(words) > 1 {
		number, err = strconv.ParseFloat(words[len(words)-1], 64)
	}
	switch {
	case len(words) == 0:
	case err != nil || number < 0 || number > 1e7:
		return fmt.Errorf("cannot do %q: the last word is no number", order)
	case len(words) == 2 && words[0] == "users":
		c.setUsers(int(number))
	case len(words) == 2 && words[0] == "say":
		c.setSay(number)
	case len(words) == 3 && words[0] == "leave" && number <= 100:
		c.leave(words[1], number)
	default:
		return fmt.Errorf("cannot do %q: users N, say N, leave HOST PERCENT or quit", order)
	}
	return nil
}
