package main

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/forkd/forkd/internal/control"
)

// idle is what there is to say when nothing runs.
const idle = "no app is running: start one with forkd run --listen :8080 -- ./server"

// statusFlags are the forms of the answer.
type statusFlags struct{ json, watch, quiet bool }

func statusCommand(std stdio) *cobra.Command {
	var flags statusFlags
	cmd := &cobra.Command{
		Use:     "status [APP]",
		Aliases: []string{"ls", "list", "ps"},
		Short:   "show an app, or all of this host",
		Long: `status shows the app's workers, one a row, a draining predecessor on its own.
CONNS are open connections, CPU is a share of one core, and - is a figure that
is not known. Where two apps have one name, write DIR/APP.

With -q it prints nothing, and exits 0 when all wanted workers are ready, else
1; 3 when there is no such app.`,
		ValidArgsFunction: appNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			switch {
			case len(args) > 1:
				return usage("status takes one APP, or none for all: see forkd status --help")
			case flags.json && flags.watch, flags.quiet && (flags.json || flags.watch):
				return usage("use only one of --json, --watch and -q: see forkd status --help")
			case len(args) == 1:
				name = args[0]
			}
			switch {
			case flags.quiet:
				return allReady(cmd.Context(), name)
			case flags.watch:
				return watch(cmd.Context(), std, name)
			default:
				return show(cmd.Context(), std, name, flags.json)
			}
		},
	}
	cmd.Flags().BoolVar(&flags.json, "json", false, "print a JSON list")
	cmd.Flags().BoolVarP(&flags.watch, "watch", "w", false, "show it again each second, until Ctrl-C")
	cmd.Flags().BoolVarP(&flags.quiet, "quiet", "q", false, "print nothing, only exit")
	return cmd
}

// sight is one app as it was found.
type sight struct {
	at      control.Location
	app     control.App
	foreign bool  // another user's, and not root's
	err     error // it did not answer
}

// Many apps that are slow to answer, or large, must not cost what one may, many
// times: they may be another user's.
const (
	lookTime = 10 * time.Second
	lookOnce = 16
)

// look asks the named app, or every one for "", lookOnce at a time. The error says
// that the name is no good; an app that does not answer has its own.
func look(ctx context.Context, name string) ([]sight, error) {
	var found []control.Location
	if name == "" {
		found = control.List()
	} else {
		at, err := control.Find(name)
		if err != nil {
			return nil, err
		}
		found = []control.Location{at}
	}
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	sights := make([]sight, len(found))
	room := make(chan struct{}, lookOnce)
	var all sync.WaitGroup
	for i, at := range found {
		room <- struct{}{}
		all.Go(func() {
			defer func() { <-room }()
			sights[i] = ask(ctx, at)
		})
	}
	all.Wait()
	if name == "" { // an app that ended meanwhile is just not there
		sights = slices.DeleteFunc(sights, func(s sight) bool {
			_, gone := errors.AsType[*control.NoAppError](s.err)
			return gone
		})
	}
	return sights, nil
}

func ask(ctx context.Context, at control.Location) sight {
	client, err := control.Connect(at)
	if err != nil {
		return sight{at: at, err: err}
	}
	defer client.Close()
	app, err := client.Status(ctx)
	return sight{at: at, app: app, foreign: client.Foreign(), err: err}
}

// show prints once. What answers is shown even if another app does not.
func show(ctx context.Context, std stdio, name string, asJSON bool) error {
	sights, err := look(ctx, name)
	if err != nil {
		return err
	}
	if asJSON {
		err = list(std, sights)
	} else {
		_, err = fmt.Fprintln(std.out, strings.Join(picture(screenOf(std.out), sights, time.Now()), "\n"))
	}
	if err != nil {
		return fmt.Errorf("cannot print the status: %v", err)
	}
	return firstError(sights)
}

func list(std stdio, sights []sight) error {
	apps := []control.App{}
	for _, s := range sights {
		if s.err == nil {
			apps = append(apps, s.app)
		}
	}
	return printJSON(std.out, apps, "  ")
}

// picture draws every app that answered.
func picture(s screen, sights []sight, now time.Time) []string {
	times := map[string]int{}
	for _, sight := range sights {
		times[sight.at.Name]++
	}
	var lines []string
	for i := range sights {
		sight := &sights[i]
		title := sight.at.Name
		if times[title] > 1 {
			title = sight.at.Path()
		}
		if i > 0 {
			lines = append(lines, "")
		}
		if sight.err != nil {
			lines = append(lines, s.paint(red, s.cut(clean(title+": "+sight.err.Error()))))
			continue
		}
		lines = append(lines, table(s, title, &sight.app, now)...)
	}
	if len(sights) == 0 {
		lines = []string{s.cut(idle)}
	}
	return lines
}

func firstError(sights []sight) error {
	for _, s := range sights {
		if s.err != nil {
			return s.err
		}
	}
	return nil
}

// allReady is `status -q`: only an exit code.
func allReady(ctx context.Context, name string) error {
	sights, err := look(ctx, name)
	if err == nil {
		err = firstError(sights)
	}
	if err != nil {
		code, _ := verdict(err)
		return &exit{code: code}
	}
	if len(sights) == 0 {
		return &exit{code: exitNoApp}
	}
	for _, s := range sights {
		if !s.app.AllReady() {
			return &exit{code: exitFailed}
		}
	}
	return nil
}

// watch draws each second, over the last picture on a terminal, until the user
// has seen enough.
func watch(ctx context.Context, std stdio, name string) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return redraw(ctx, std, func(s screen) ([]string, error) {
		sights, err := look(ctx, name)
		if err != nil {
			return []string{s.cut(clean(err.Error()))}, err
		}
		return picture(s, sights, time.Now()), nil
	})
}

// redraw draws each second until ctx ends. What can't be looked at the first time is
// an error; later it may come back, and is drawn as look has it.
func redraw(ctx context.Context, std stdio, look func(s screen) ([]string, error)) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for first := true; ; first = false {
		s := screenOf(std.out)
		lines, err := look(s)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && first:
			return err
		}
		if _, err := fmt.Fprint(std.out, frame(s, lines, first)); err != nil {
			return fmt.Errorf("cannot print the status: %v", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// frame is one picture of several: a terminal is cleared at the first, and
// drawn over after that; elsewhere they follow each other.
func frame(s screen, lines []string, first bool) string {
	const (
		home      = "\x1b[H"
		clearAll  = "\x1b[2J"
		clearLine = "\x1b[K"
		clearRest = "\x1b[J"
	)
	switch {
	case s.height > 0 && first:
		return clearAll + home + strings.Join(s.crop(lines), "\n") + "\n"
	case s.height > 0:
		return home + strings.Join(s.crop(lines), clearLine+"\n") + clearLine + "\n" + clearRest
	case first:
		return strings.Join(lines, "\n") + "\n"
	default:
		return "\n" + strings.Join(lines, "\n") + "\n"
	}
}
