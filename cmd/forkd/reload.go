package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/forkd/forkd/internal/control"
)

func reloadCommand(std stdio) *cobra.Command {
	var keep, noWait, all bool
	cmd := &cobra.Command{
		Use:   "reload APP",
		Short: "read the configuration, and replace an app's workers one by one",
		Long: `reload has the app read its configuration again, then replaces every worker by a
new one, which is ready before its predecessor stops accepting: no request is
dropped. It shows the roll as it goes, and exits 0 when it is done, 1 when it was
rolled back or when the configuration is no good, which changes nothing. The roll
goes on if reload is interrupted.`,
		Example: `  forkd reload shop
  forkd reload shop --keep-config`,
		ValidArgsFunction: appNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			return each(cmd, args, all, func(client *control.Client) error {
				return reload(cmd.Context(), std, client, control.Reload{KeepConfig: keep, Wait: !noWait})
			})
		},
	}
	cmd.Flags().BoolVar(&keep, "keep-config", false, "roll without reading the configuration again")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "return when the roll has been asked for")
	cmd.Flags().BoolVar(&all, "all", false, "every app that runs, one after the other")
	return cmd
}

// each calls f for the app that is named, or for all of them. It goes on after
// a failure and reports the first.
func each(cmd *cobra.Command, args []string, all bool, f func(*control.Client) error) error {
	var found []control.Location
	switch {
	case all && len(args) == 0:
		if found = control.List(); len(found) == 0 {
			return &exit{exitNoApp, idle}
		}
	case !all && len(args) == 1:
		at, err := control.Find(args[0])
		if err != nil {
			return err
		}
		found = []control.Location{at}
	case cmd.Flags().Lookup("all") == nil:
		return usage("name one app: write %s", cmd.UseLine())
	default:
		return usage("name one app, or use --all: write %s", cmd.UseLine())
	}
	var failures []error
	for _, at := range found {
		client, err := control.Connect(at)
		if err == nil {
			err = f(client)
			client.Close()
		}
		if err != nil {
			failures = append(failures, err)
		}
	}
	switch len(failures) {
	case 0:
		return nil
	case 1:
		return failures[0]
	default:
		code, text := verdict(failures[0])
		return &exit{code, fmt.Sprintf("%s (and %d more failed)", text, len(failures)-1)}
	}
}

func reload(ctx context.Context, std stdio, client *control.Client, r control.Reload) error {
	name := client.At().Name
	if !r.Wait {
		rolled, err := client.Reload(ctx, r)
		if err == nil {
			fmt.Fprintf(std.out, "%s: a roll to generation %d has been asked for\n", name, rolled.Generation)
		}
		return ofApp(name, err)
	}
	type outcome struct {
		rolled control.Rolled
		err    error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	began := time.Now()
	before, err := client.Status(ctx)
	if err != nil {
		return ofApp(name, err)
	}
	ended := make(chan outcome, 1)
	go func() {
		rolled, err := client.Reload(ctx, r)
		ended <- outcome{rolled, err}
	}()
	poll := time.NewTicker(250 * time.Millisecond)
	defer poll.Stop()
	shown := ""
	for {
		select {
		case end := <-ended:
			if end.err != nil {
				return ofApp(name, end.err)
			}
			if err := conclude(std, name, end.rolled, time.Since(began)); err != nil {
				return err
			}
			return resized(ctx, std, client, before.Totals.Wanted)
		case <-poll.C:
		}
		app, err := client.Status(ctx)
		if silent, ok := errors.AsType[*control.NoAnswerError](err); ok {
			return silent
		}
		if err == nil && app.Roll != nil {
			if text := rollText(app.Roll); text != shown {
				fmt.Fprintf(std.out, "%s: %s\n", name, text)
				shown = text
			}
		}
	}
}

// resized waits for another number of workers, where the file asks for it: that
// is set when the roll is done.
func resized(ctx context.Context, std stdio, client *control.Client, before int) error {
	app, err := client.Status(ctx)
	if err != nil {
		return ofApp(client.At().Name, err)
	}
	if app.Totals.Wanted == before {
		return nil
	}
	return settle(ctx, std, client, control.Scaled{From: before, To: app.Totals.Wanted}, time.Now())
}

// conclude prints a roll's success, and makes an error of anything else.
func conclude(std stdio, name string, r control.Rolled, took time.Duration) error {
	if r.Result == control.ResultDone {
		fmt.Fprintf(std.out, "%s: generation %d serves, after %.1fs\n", name, r.Generation, took.Seconds())
		return nil
	}
	return fmt.Errorf("%s: roll to generation %d: %s", name, r.Generation, resultText(r))
}

// ofApp puts the app's name before what its master refused.
func ofApp(name string, err error) error {
	if refusal, ok := errors.AsType[*control.Error](err); ok {
		return fmt.Errorf("%s: %s", name, refusal.Text)
	}
	return err
}
