package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/forkd/forkd/internal/fleet"
	"github.com/forkd/forkd/internal/haproxy"
)

const (
	haproxyEvery   = time.Second            // between two looks: the next fills a restarted HAProxy
	haproxyRetry   = 250 * time.Millisecond // to the next look after a failure, then twice as long
	haproxySlowest = 2 * time.Second        // at most
	haproxyWithin  = 5 * time.Second        // for Redis, and for HAProxy
	mostWrong      = 20                     // lines that are said of one look
)

type haproxyFlags struct {
	from     redisFlags
	sync     haproxy.Sync
	socket   string
	networks []string
	json     bool
}

func fleetHAProxyCommand(std stdio) *cobra.Command {
	var f haproxyFlags
	cmd := &cobra.Command{
		Use:   "haproxy APP --socket PATH|HOST:PORT --backend NAME",
		Short: "keep a backend of HAProxy in step with the hosts of an app",
		Long: `haproxy gives the hosts that report an app to the servers of a backend, without
a reload, through the runtime API of HAProxy's stats socket (level admin). The
backend has servers to fill:

  server-template forkd 100 0.0.0.0:1 check weight 100 disabled

A host that is ready gets a server, with a weight by the capacity that it has
free. A host that drains, stops, or misses reports gets nobody new (drain). When
it reports no more its server is free (maint). A server whose name is not
--prefix and a number is left alone. What HAProxy forgets when it is restarted
is filled in again. While Redis is away, or no host in it serves, no server is
taken away.

The address is the first IP:PORT that a host reports: see redis.advertise. Run
one of these for each HAProxy, and no agent-check for these servers.`,
		Example: `  forkd fleet haproxy shop --socket /run/haproxy/admin.sock --backend shop
  forkd fleet haproxy shop --socket :9999 --backend shop --network 10.0.0.0/8`,
		Args:              exactly(1),
		ValidArgsFunction: appNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			return f.from.withFleet(cmd.Context(), args[0], func(ctx context.Context, r fleetReader, where string) error {
				run := haproxyRun{
					sync: &f.sync, from: r, app: args[0], where: where, err: std.err,
					out: output{to: std.out, what: "change", json: f.json, compact: true},
				}
				return run.run(ctx)
			})
		},
	}
	f.from.registerReading(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.socket, "socket", "", "HAProxy's stats socket: a `PATH`, or HOST:PORT")
	flags.StringVar(&f.sync.Backend, "backend", "", "the `NAME` of the backend")
	flags.StringVar(&f.sync.Prefix, "prefix", "forkd", "the `PREFIX` of server-template")
	flags.Uint16Var(&f.sync.Port, "port", 0, "of the addresses that a host reports, use the one with `PORT`")
	flags.StringArrayVar(&f.networks, "network", nil, "use only addresses in `CIDR`; can be repeated")
	flags.BoolVar(&f.sync.Once, "once", false, "look once, and end")
	flags.BoolVar(&f.json, "json", false, "print each change as a JSON object, one a line")
	return cmd
}

func (f *haproxyFlags) check() error {
	switch {
	case f.socket == "":
		return usage("say HAProxy's stats socket: --socket PATH|HOST:PORT")
	case f.sync.Backend == "":
		return usage("say the backend: --backend NAME")
	}
	f.sync.API = haproxy.API{Network: "unix", Address: f.socket}
	if !strings.Contains(f.socket, "/") {
		f.sync.API.Network = "tcp"
		if _, _, err := net.SplitHostPort(f.socket); err != nil {
			return usage("--socket %q: use a path with a slash, or HOST:PORT", f.socket)
		}
	}
	if err := haproxy.CheckName(f.sync.Backend); err != nil {
		return usage("--backend %v", err)
	}
	if err := haproxy.CheckName(f.sync.Prefix); err != nil {
		return usage("--prefix %v", err)
	}
	for _, text := range f.networks {
		network, err := netip.ParsePrefix(text)
		if err != nil {
			return usage("--network %q: use CIDR, such as 10.0.0.0/8", text)
		}
		f.sync.Networks = append(f.sync.Networks, network)
	}
	return nil
}

// haproxyRun keeps a backend in step until its context ends.
type haproxyRun struct {
	sync       *haproxy.Sync
	from       fleetReader
	app, where string
	out        output
	err        io.Writer

	said []string // what was wrong at the last look
}

// run looks every second, sooner at first after a failure. An error is of printing; with
// Once it is whatever was wrong.
func (r *haproxyRun) run(ctx context.Context) error {
	retry := haproxyRetry
	for {
		well, err := r.look(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		case r.sync.Once && well:
			return nil
		case r.sync.Once:
			return &exit{exitFailed, "not everything could be done"}
		}
		pause := haproxyEvery
		if well {
			retry = haproxyRetry
		} else {
			pause, retry = retry, min(2*retry, haproxySlowest)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// look looks at Redis, then at HAProxy, and reports whether all is well. What is wrong is
// said when it is new.
func (r *haproxyRun) look(ctx context.Context) (well bool, err error) {
	f, wrong, err := r.read(ctx)
	if err != nil {
		return false, err
	}
	timed, cancel := context.WithTimeout(ctx, haproxyWithin)
	defer cancel()
	changes, more, err := r.sync.Look(timed, f)
	if wrong = append(wrong, more...); err != nil {
		wrong = append(wrong, fmt.Sprintf("%s: %v", r.sync.Address, err))
	}
	if ctx.Err() != nil {
		return false, nil
	}
	for _, c := range changes {
		err := r.out.print(c, func(screen) []string { return []string{clock(time.Now(), time.Now()) + " " + sanitize(c.String())} })
		if err != nil {
			return false, err
		}
	}
	for _, text := range wrong[:min(len(wrong), mostWrong)] {
		if !slices.Contains(r.said, text) {
			fmt.Fprintln(r.err, "forkd: "+sanitize(text))
		}
	}
	r.said = wrong
	return len(wrong) == 0, nil
}

// read reads the hosts; nil, and why, if they can't be read now.
func (r *haproxyRun) read(ctx context.Context) (*fleet.Fleet, []string, error) {
	timed, cancel := context.WithTimeout(ctx, haproxyWithin)
	defer cancel()
	f, err := r.from.Fleet(timed, r.app, false)
	switch {
	case r.sync.Once && err == nil && len(f.Hosts) == 0:
		return nil, nil, unreported(r.app, r.where)
	case err != nil && r.sync.Once:
		return nil, nil, err
	case err != nil:
		return nil, []string{redisError(r.where, err).Error()}, nil
	case len(f.Hosts) == 0:
		return &f, []string{unreported(r.app, r.where).Error()}, nil
	default:
		return &f, nil, nil
	}
}
