package main

import (
	"context"
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
is not known. Where two apps have one name, write DIR/APP.

With -q it prints nothing, and exits 0 when all wanted workers are ready, else
1; 3 when there is no such app.`,
		ValidArgsFunction: appNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) > 1:
				return usage("status takes one APP, or none for all: see forkd status --help")
			case asJSON && watching, quiet && (asJSON || watching):
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

// printStatus prints once. Apps that answer are shown even if another does not.
func printStatus(ctx context.Context, std stdio, name string, asJSON bool) error {
	apps, err := query(ctx, name)
	if err != nil {
		return err
	}
	list := []control.App{}
	for i := range apps {
		if apps[i].err == nil {
			list = append(list, apps[i].app)
		}
	}
	err = output{to: std.out, what: "status", json: asJSON}.print(list, func(s screen) []string { return render(s, apps, time.Now()) })
	if err != nil {
		return err
	}
	return firstError(apps)
}

// render draws the apps. Where two have one name, they are called by their paths.
func render(s screen, apps []appStatus, now time.Time) []string {
	if len(apps) == 0 {
		return []string{s.cut(nothingRuns)}
	}
	named := map[string]int{}
	for i := range apps {
		named[apps[i].at.Name]++
	}
	var lines []string
	for i := range apps {
		title := apps[i].at.Name
		if named[title] > 1 {
			title = apps[i].at.Path()
		}
		if i > 0 {
			lines = append(lines, "")
		}
		if err := apps[i].err; err != nil {
			lines = append(lines, s.paint(red, s.cut(sanitize(title+": "+err.Error()))))
		} else {
			lines = append(lines, statusTable(s, title, &apps[i].app, now)...)
		}
	}
	return lines
}

// allReady is `status -q`: only an exit code.
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
		if !apps[i].app.AllReady() {
			return &exit{code: exitFailed}
		}
	}
	return nil
}

func watchStatus(ctx context.Context, std stdio, name string) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return watch(ctx, std, func(s screen) ([]string, error) {
		apps, err := query(ctx, name)
		if err != nil {
			return []string{s.cut(sanitize(err.Error()))}, err
		}
		return render(s, apps, time.Now()), nil
	})
}
