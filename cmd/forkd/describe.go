package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/state"
)

func describeCommand(std stdio) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "describe APP [SLOT]",
		Aliases: []string{"show", "info"},
		Short:   "show everything about an app, or one of its slots",
		Long: `describe shows what an app runs, each of its settings and where that came from,
its rolls, and how its workers ended, with the last that they printed.`,
		Example: `  forkd describe shop
  forkd describe shop 0`,
		ValidArgsFunction: appNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			slot := allSlots
			if len(args) == 2 {
				k, err := strconv.ParseUint(args[1], 10, 16)
				if err != nil {
					return usage("%q is no slot: use its number in forkd status %s", args[1], args[0])
				}
				slot, args = int(k), args[:1]
			}
			err := withApp(cmd, args, func(client *control.Client) error {
				return describe(cmd.Context(), std, client, slot, asJSON)
			})
			return withoutMaster(std, err, func(h state.History) error {
				d := control.Description{App: control.App{Schema: control.StatusSchema, App: args[0], State: stoppedState}}
				addEarlier(&d, h)
				if slot != allSlots {
					d.History = slices.DeleteFunc(d.History, func(e control.Exit) bool { return e.Slot != slot })
				}
				return output{to: std.out, what: "description", json: asJSON}.print(d, func(s screen) []string {
					now := time.Now()
					return s.pastOf(s.wrapIndent("", "  ", sanitize(args[0]+": "+lastWords(h, now))), &d, slot, now)
				})
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object")
	return cmd
}

// allSlots is the slot where none is named.
const allSlots = -1

func describe(ctx context.Context, std stdio, client *control.Client, slot int, asJSON bool) error {
	name := client.At().Name
	var h state.History
	if !client.Foreign() {
		h, _ = keptOf(std, name) // before the master is asked, which then knows what is newer; none: then that is all
	}
	d, err := client.Describe(ctx)
	if err != nil {
		return err
	}
	addEarlier(&d, h)
	if slot != allSlots {
		if err := keepSlot(&d, slot); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return output{to: std.out, what: "description", json: asJSON}.print(d, func(s screen) []string {
		return description(s, name, &d, slot, time.Now())
	})
}

// keepSlot removes from a description what is not of one slot.
func keepSlot(d *control.Description, slot int) error {
	other := func(s control.Slot) bool { return s.Slot != slot }
	slots := len(d.Slots)
	if d.Slots = slices.DeleteFunc(d.Slots, other); len(d.Slots) == 0 {
		return fmt.Errorf("there is no slot %d: it has %s, from 0", slot, plural(slots, "slot"))
	}
	d.History = slices.DeleteFunc(d.History, func(e control.Exit) bool { return e.Slot != slot })
	d.Leftovers = slices.DeleteFunc(d.Leftovers, func(l control.Leftover) bool { return l.Slot == nil || *l.Slot != slot })
	return nil
}
