package main

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/forkd/forkd/internal/control"
)

func statusCommand(std stdio) *cobra.Command {
	var asJSON, watching, quiet bool
	cmd := &cobra.Command{
		Use:     "status [APP]",
		Aliases: []string{"ls", "list", "ps"},
		Short:   "show an app, or all of this host",
		Long: `status shows the app's workers, one a row, a draining predecessor on its own.
CONNS are open connections, CPU is a share of one core, and - is a figure that
is not known. Where two apps have one name, write DIR/APP. Apps that have a file,
/etc/forkd/APP.toml or ~/.config/forkd/APP.toml, and do not run are listed as
stopped; for one that is asked for by its name the exit code is 3.

With -q it prints nothing, and exits 0 when the app is ready, as GET /healthz
means it (it has come up, does not stop, and the host does not drain), and all
wanted workers are ready too; else 1; 3 when there is no such app.`,
		Args:              between(0, 1),
		ValidArgsFunction: appNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			if asJSON && watching || quiet && (asJSON || watching) {
				return usage("use only one of --json, --watch and -q: see forkd status --help")
			}
			name := strings.Join(args, "")
			switch {
			case quiet:
				return allReady(cmd.Context(), name)
			case watching:
				return watchStatus(cmd.Context(), std, name)
			default:
				return printStatus(cmd.Context(), std, name, asJSON)
			}
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON list")
	cmd.Flags().BoolVarP(&watching, "watch", "w", false, "show it again each second, until Ctrl-C")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print nothing, only exit")
	return cmd
}

// printStatus prints once. Apps that answer are shown even if another does not, and without
// waiting for it.
func printStatus(ctx context.Context, std stdio, name string, asJSON bool) error {
	out := output{to: std.out, what: "status", json: asJSON}
	show := func(apps []appStatus) error {
		list := []control.App{}
		for i := range apps {
			if apps[i].err == nil {
				list = append(list, apps[i].app)
			}
		}
		return out.print(list, func(s screen) []string { return render(s, apps, time.Now()) })
	}
	s, err := ask(ctx, name)
	if err != nil {
		if is[*control.NoAppError](err) {
			if apps := stoppedApps(control.Look(), name); len(apps) > 0 {
				return errors.Join(show(apps), &exit{code: exitNoApp})
			}
		}
		return err
	}
	defer s.end()
	apps := s.wait(lateAfter)
	if late := s.late(); len(late) > 0 {
		if len(apps) > 0 && !asJSON {
			if err := show(apps); err != nil {
				return err
			}
			fmt.Fprintln(std.out)
			apps = nil
		}
		fmt.Fprintln(std.err, "forkd: waiting for "+sanitize(strings.Join(late, ", "))+": no answer yet")
		apps = append(apps, s.wait(queryTimeout)...)
	}
	failed := firstError(apps)
	if s.all {
		apps = append(apps, stoppedApps(s.there, "")...)
	}
	if others := s.there.Others; len(others) > 0 {
		if len(apps) == 0 && !asJSON {
			fmt.Fprintln(std.out, nothingOfYours+": "+sanitize(othersText(others)))
			return failed
		}
		defer fmt.Fprintln(std.err, "forkd: "+sanitize(othersText(others)))
	}
	if err := show(apps); err != nil {
		return err
	}
	return failed
}

func render(s screen, apps []appStatus, now time.Time) []string {
	if len(apps) == 0 {
		return []string{s.cut(nothingRuns)}
	}
	var lines []string
	for i := range apps {
		a := &apps[i]
		if i > 0 && (a.stopped == "" || apps[i-1].stopped == "" || len(a.app.Leftovers) > 0) {
			lines = append(lines, "")
		}
		switch {
		case is[*control.NoAnswerError](a.err) && a.title == a.at.Name: // it has the name
			lines = append(lines, s.paint(red, s.cut(sanitize(a.err.Error()))))
		case a.err != nil:
			lines = append(lines, s.paint(red, s.cut(sanitize(a.title+": "+a.err.Error()))))
		case a.stopped != "":
			lines = append(lines, s.stoppedLines(a, now)...)
		default:
			lines = append(lines, statusTable(s, a.title, &a.app, now)...)
		}
	}
	return lines
}

// allReady is `status -q`: only an exit code. It wants the state that /healthz wants, in which
// the app has come up and the host does not drain, and all workers.
func allReady(ctx context.Context, name string) error {
	apps, err := query(ctx, name)
	if err == nil {
		err = firstError(apps)
	}
	if err != nil {
		code, _ := exitCode(err)
		return &exit{code: code}
	}
	if len(apps) == 0 {
		return &exit{code: exitNoApp}
	}
	for i := range apps {
		if apps[i].app.State != control.StateReady || !apps[i].app.AllReady() {
			return &exit{code: exitFailed}
		}
	}
	return nil
}

func watchStatus(ctx context.Context, std stdio, name string) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return watch(ctx, std, func(s screen) ([]string, error) {
		apps, there, err := glance(ctx, name)
		if err != nil {
			return []string{s.cut(sanitize(err.Error()))}, err
		}
		if name == "" {
			apps = append(apps, stoppedApps(there, "")...)
		}
		return render(s, apps, time.Now()), nil
	})
}
