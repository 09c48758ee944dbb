package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/forkd/forkd/internal/control"
)

func scaleCommand(std stdio) *cobra.Command {
	return &cobra.Command{
		Use:   "scale APP N|+N|-N|cpus",
		Short: "change how many workers an app has",
		Long: `scale changes how many workers an app has: to a number (1 to 1024, or to
workers_max), by so many more or fewer, or to a share of the machine: cpus,
cpus-1, cpus*2+1, 50%. It waits until the new workers are ready, or the ones
that leave have finished what they had and are gone. It exits 1 when a new
worker does not come up; the app goes on trying, as it goes on if scale is
interrupted.

The number holds until a reload reads a file whose workers has changed.`,
		Example: `  forkd scale shop 8
  forkd scale shop +2
  forkd scale shop -1
  forkd scale shop cpus`,
		ValidArgsFunction:  appNames,
		DisableFlagParsing: true, // -1 is no flag
		RunE: func(cmd *cobra.Command, args []string) error {
			name, to, err := scaleArgs(cmd, args)
			if err != nil || name == "" {
				return err
			}
			at, err := control.Find(name)
			if err != nil {
				return err
			}
			client, err := control.Connect(at)
			if err != nil {
				return err
			}
			defer client.Close()
			return scale(cmd.Context(), std, client, to)
		},
	}
}

// scaleArgs reads the command's arguments. Without an error and a name, help was
// asked for, and has been given.
func scaleArgs(cmd *cobra.Command, args []string) (name string, to control.Scale, err error) {
	var words []string
	for _, arg := range args {
		switch {
		case arg == "-h", arg == "--help":
			return "", to, cmd.Help()
		case arg == "--":
		case strings.HasPrefix(arg, "--"):
			return "", to, usage("unknown flag: %s: see %s --help", arg, cmd.CommandPath())
		default:
			words = append(words, arg)
		}
	}
	if err := exactly(2)(cmd, words); err != nil {
		return "", to, err
	}
	to, err = control.ParseScale(words[1])
	if err != nil {
		return "", to, usage("%v", err)
	}
	return words[0], to, nil
}

func scale(ctx context.Context, std stdio, client *control.Client, to control.Scale) error {
	name := client.At().Name
	began := time.Now()
	scaled, err := client.Scale(ctx, to)
	if err != nil {
		return refusedOf(name, err)
	}
	if scaled.From == scaled.To {
		fmt.Fprintf(std.out, "%s: %s already\n", name, plural(scaled.To, "worker"))
		return nil
	}
	return settle(ctx, std, client, scaled, began)
}

// settle waits until as many workers are there as are wanted, and shows how it
// goes.
func settle(ctx context.Context, std stdio, client *control.Client, scaled control.Scaled, began time.Time) error {
	name := client.At().Name
	poll := time.NewTicker(100 * time.Millisecond)
	defer poll.Stop()
	shown := ""
	for {
		app, err := client.Status(ctx)
		if err != nil {
			return ofApp(name, err)
		}
		text, done, err := scaling(&app, scaled, began)
		switch {
		case err != nil:
			return fmt.Errorf("%s: %w", name, err)
		case done:
			fmt.Fprintf(std.out, "%s: %s, after %.1fs\n", name, plural(scaled.To, "worker"), time.Since(began).Seconds())
			return nil
		case text != shown:
			fmt.Fprintf(std.out, "%s: %d to %d: %s\n", name, scaled.From, scaled.To, text)
			shown = text
		}
		<-poll.C
	}
}

// scaling tells how far a change of the number of workers is that was asked for
// at a time. An error says that it will not end, or not soon.
func scaling(app *control.App, to control.Scaled, began time.Time) (text string, done bool, err error) {
	switch {
	case app.State == control.StateStopping:
		return "", false, errors.New("the app stops")
	case app.Totals.Wanted != to.To:
		return "", false, fmt.Errorf("it has been scaled to %s meanwhile", plural(app.Totals.Wanted, "worker"))
	}
	ready, leaving := 0, 0
	for i := range app.Slots {
		slot := &app.Slots[i]
		switch {
		case slot.Slot >= to.To:
			leaving++
		case slot.Slot < to.From:
		case slot.State == control.StateReady:
			ready++
		case vacant(slot.State), slot.LastExit != nil && slot.LastExit.At.After(began):
			return "", false, errors.New(stillborn(slot))
		}
	}
	if fresh := to.To - to.From; fresh > 0 {
		return fmt.Sprintf("%d of %d ready", ready, fresh), ready == fresh, nil
	}
	return plural(leaving, "worker") + " to go", leaving == 0, nil
}

// stillborn says why a new slot has no worker.
func stillborn(slot *control.Slot) string {
	reason := slot.Reason
	if reason == "" && slot.LastExit != nil {
		reason = slot.LastExit.Reason
	}
	text := fmt.Sprintf("slot %d has not come up: %s", slot.Slot, reason)
	if slot.State != "failed" && slot.State != "exited" {
		text += "; forkd goes on trying"
	}
	return text
}

// refusedOf is ofApp for a command whose arguments the master checks too: what
// it can't make sense of is wrong usage.
func refusedOf(name string, err error) error {
	refusal, ok := errors.AsType[*control.Error](err)
	if ok && (refusal.Code == http.StatusBadRequest || refusal.Code == http.StatusRequestEntityTooLarge) {
		return usage("%s: %s", name, refusal.Text)
	}
	return ofApp(name, err)
}
