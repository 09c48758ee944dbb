package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
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
			args, helped, err := parseNegative(cmd, args)
			if err != nil || helped {
				return err
			}
			if err := exactly(2)(cmd, args); err != nil {
				return err
			}
			to, err := control.ParseScale(args[1])
			if err != nil {
				return usage("%v", err)
			}
			return withApp(cmd, args[:1], func(client *control.Client) error {
				return scale(cmd.Context(), std, client, to)
			})
		},
	}
}

// negativeMark hides from pflag that an argument begins with a hyphen.
const negativeMark = "\x00"

// parseNegative parses the flags of a command with DisableFlagParsing, where -1 is
// an argument and not a flag. helped says that help was asked for, and is printed.
func parseNegative(cmd *cobra.Command, args []string) (words []string, helped bool, err error) {
	negative := regexp.MustCompile(`^-[0-9]+$`)
	args = slices.Clone(args)
	for i, arg := range args {
		if arg == "--" {
			break
		}
		if negative.MatchString(arg) {
			args[i] = negativeMark + arg
		}
	}
	cmd.DisableFlagParsing = false
	if err := cmd.ParseFlags(args); err != nil {
		return nil, false, flagError(cmd, err)
	}
	if help, _ := cmd.Flags().GetBool("help"); help {
		return nil, true, cmd.Help()
	}
	for _, word := range cmd.Flags().Args() {
		words = append(words, strings.TrimPrefix(word, negativeMark))
	}
	return words, false, nil
}

func scale(ctx context.Context, std stdio, client *control.Client, to control.Scale) error {
	name := client.At().Name
	began := time.Now()
	scaled, err := client.Scale(ctx, to)
	if err != nil {
		return argumentError(name, err)
	}
	if scaled.From == scaled.To {
		fmt.Fprintf(std.out, "%s: %s already\n", name, plural(scaled.To, "worker"))
		return nil
	}
	return awaitWorkers(ctx, std, client, scaled, began)
}

// awaitWorkers waits until the app has as many workers as are wanted, and prints
// the progress.
func awaitWorkers(ctx context.Context, std stdio, client *control.Client, scaled control.Scaled, began time.Time) error {
	name := client.At().Name
	poll := time.NewTicker(100 * time.Millisecond)
	defer poll.Stop()
	shown := ""
	for {
		app, err := client.Status(ctx)
		if err != nil {
			return err
		}
		text, done, err := scaleProgress(&app, scaled, began)
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

// scaleProgress is the progress of a scaling that began at a time. An error says
// that it will not end, or not soon.
func scaleProgress(app *control.App, to control.Scaled, began time.Time) (text string, done bool, err error) {
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
			text = fmt.Sprintf("slot %d has not come up: %s", slot.Slot, lastReason(slot))
			if !over(slot.State) {
				text += "; forkd goes on trying"
			}
			return "", false, errors.New(text)
		}
	}
	if added := to.To - to.From; added > 0 {
		return fmt.Sprintf("%d of %d ready", ready, added), ready == added, nil
	}
	return plural(leaving, "worker") + " to go", leaving == 0, nil
}
