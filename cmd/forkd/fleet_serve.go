package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/forkd/forkd/internal/fleet"
	"github.com/forkd/forkd/internal/fleetserve"
	"github.com/forkd/forkd/internal/redisconfig"
)

// minToken is of how many bytes a token is at least, so that nobody finds it by trying.
const minToken = 16

type fleetServer struct {
	from      redisFlags
	policy    policyFlags
	apps      []string
	listen    string
	names     []string
	tokenFile string
}

func fleetServeCommand(std stdio) *cobra.Command {
	var s fleetServer
	cmd := &cobra.Command{
		Use:   "serve [APP...]",
		Short: "show a live page of the fleet, and its figures to autoscalers",
		Long: `serve answers HTTP requests about the apps that are reported, or those that are
named:

  /                     the fleet as a picture that moves
  /v1/fleet             the hosts, as fleet status --json; ?app=APP ?workers=1
  /v1/scale?app=APP     how many hosts the app has, and should have
  /v1/sd                where the hosts answer /metrics (http_sd of Prometheus)
  /metrics              the fleet's figures, for Prometheus

Where a forkd fleet advise -f leads, the advice is that one's. Where none does the
reason says so, and the flags of the policy count.

It is read-only, and shows everything to whoever can reach it. With --token-file
it sends hosts the commands drain, resume and shed that come with the token of
that file, from the page too. It has no TLS: put a server that has between it
and others.

It answers who calls it by an address, as localhost, or by this host's name;
--name allows another.`,
		Example: `  forkd fleet serve
  forkd fleet serve shop --redis redis://10.0.0.5 --listen 10.0.0.2:9640
  forkd fleet serve --token-file /etc/forkd/fleet.token`,
		ValidArgsFunction: appNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			s.apps = args
			return s.run(cmd.Context(), std)
		},
	}
	s.from.registerReading(cmd)
	s.policy.register(cmd)
	cmd.Flags().StringVar(&s.listen, "listen", "127.0.0.1:9640", "the `ADDRESS` to answer on: HOST:PORT, or :PORT for all")
	cmd.Flags().StringArrayVar(&s.names, "name", nil, "a `NAME` by which it may be called; can be repeated")
	cmd.Flags().StringVar(&s.tokenFile, "token-file", "", "allow commands that come with the token in `FILE`")
	return cmd
}

func (s *fleetServer) run(ctx context.Context, std stdio) error {
	for _, app := range s.apps {
		if err := fleet.CheckApp(app); err != nil {
			return usage("%v", err)
		}
	}
	token, err := s.token()
	if err != nil {
		return err
	}
	policy, err := s.policy.check()
	if err != nil {
		return err
	}
	app := ""
	if len(s.apps) > 0 {
		app = s.apps[0]
	}
	return s.from.withFleet(ctx, app, func(ctx context.Context, from fleetReader, where string) error {
		ln, err := new(net.ListenConfig).Listen(ctx, "tcp", s.listen)
		if err != nil {
			return &exit{exitFailed, fmt.Sprintf("cannot answer on %s: %v: choose another --listen", s.listen, err)}
		}
		log := slog.New(slog.NewTextHandler(std.err, nil))
		does := "read-only"
		if token != "" {
			does = "with commands"
			if at, err := netip.ParseAddrPort(ln.Addr().String()); err == nil && !at.Addr().IsLoopback() {
				log.Warn("the token can be read by whoever sees the network: put a server with TLS before this one", "listen", ln.Addr().String())
			}
		}
		fmt.Fprintf(std.err, "forkd: the fleet in %s is on http://%s/, %s\n", where, ln.Addr(), does)
		err = fleetserve.Serve(ctx, ln, fleetserve.Config{
			Source: from, Policy: policy, Apps: s.apps, Names: s.names, Token: token, Log: log,
		})
		if err != nil {
			return &exit{exitFailed, "cannot serve: " + err.Error()}
		}
		return nil
	})
}

// token is what is in the file of the token; "" without a file.
func (s *fleetServer) token() (string, error) {
	if s.tokenFile == "" {
		return "", nil
	}
	if s.from.readFrom == redisconfig.FromReplica {
		return "", usage("use only one of --token-file and --read-from replica: a replica takes no commands")
	}
	s.from.readFrom = redisconfig.FromPrimary
	path, err := filepath.Abs(s.tokenFile)
	if err != nil {
		return "", err
	}
	token, err := redisconfig.ReadSecret(path)
	bad, isBad := errors.AsType[*redisconfig.BadSetting](err)
	switch {
	case isBad:
		return "", usage("--token-file: %s", bad.Text)
	case err != nil:
		return "", err
	case len(token) < minToken || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", usage("--token-file: the first line of %s is no token: use %d or more letters, digits and signs, without spaces", s.tokenFile, minToken)
	}
	return token, nil
}
