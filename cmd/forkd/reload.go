package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/forkd/forkd/internal/control"
)

func reloadCommand(std stdio) *cobra.Command {
	var keep, noWait, all bool
	var slot int
	cmd := &cobra.Command{
		Use:   "reload APP",
		Short: "read the configuration, and replace an app's workers one by one",
		Long: `reload has the app read its configuration again, then replaces every worker by
a new one, which is ready before its predecessor stops accepting. Connections
that wait in the kernel are never lost; requests that a worker has accepted are
finished by programs that do so at their stop signal: those with Go's package
(whose idle connections move to the new workers, unseen by their clients), node,
gunicorn, uvicorn, nginx and others (forkd help presets), not php -S or python3
-m http.server. It shows the roll as it goes, and exits 0 when it is
done, 1 when it was rolled back or when the configuration is no good, which
changes nothing. The roll goes on if reload is interrupted.`,
		Example: `  forkd reload shop
  forkd reload shop --keep-config
  forkd reload shop --slot 1`,
		ValidArgsFunction: appNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			return withApps(cmd, args, all, false, func(client *control.Client) error {
				r := control.Reload{KeepConfig: keep, Wait: !noWait}
				if cmd.Flags().Changed("slot") {
					r.Slot = &slot
				}
				return reload(cmd.Context(), std, client, r)
			})
		},
	}
	cmd.Flags().BoolVar(&keep, "keep-config", false, "roll without reading the configuration again")
	cmd.Flags().IntVar(&slot, "slot", 0, "replace the worker of slot `K` alone, by one of the same generation")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "return when the roll has been asked for")
	cmd.Flags().BoolVar(&all, "all", false, "every app that runs, one after the other")
	return cmd
}

// How often it is looked how far a roll is: each look takes what is to be left to the clients.
const lookInterval = 2 * time.Second

func reload(ctx context.Context, std stdio, client *control.Client, r control.Reload) error {
	name := client.At().Name
	if !r.Wait {
		rolled, err := client.Reload(ctx, r)
		if err == nil && r.Slot != nil {
			fmt.Fprintf(std.out, "%s: another worker for slot %d has been asked for\n", name, *r.Slot)
		} else if err == nil {
			fmt.Fprintf(std.out, "%s: a roll to generation %d has been asked for\n", name, rolled.Generation)
		}
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	began := time.Now()
	var before control.Summary
	if !r.KeepConfig && r.Slot == nil {
		var err error
		if before, err = client.Summary(ctx); err != nil {
			return err
		}
	}
	var rolled control.Rolled
	ended := make(chan error, 1)
	go func() {
		var err error
		rolled, err = client.Reload(ctx, r)
		ended <- err
	}()
	look := time.NewTicker(lookInterval)
	defer look.Stop()
	shown := ""
	for {
		select {
		case err := <-ended:
			switch {
			case err != nil:
				return err
			case rolled.Result != control.ResultDone:
				return failedRoll(ctx, std, client, r, rolled, began)
			case r.Slot != nil:
				fmt.Fprintf(std.out, "%s: slot %d has a new worker, after %.1fs\n", name, *r.Slot, time.Since(began).Seconds())
				return nil
			}
			fmt.Fprintf(std.out, "%s: generation %d serves, after %.1fs\n", name, rolled.Generation, time.Since(began).Seconds())
			if r.KeepConfig {
				return nil
			}
			return awaitScale(ctx, std, client, before.Wanted)
		case <-look.C:
		}
		now, err := client.Summary(ctx)
		if is[*control.NoAnswerError](err) {
			return err
		}
		if err == nil && now.Roll != nil {
			if text := rollText(now.Roll); text != shown {
				fmt.Fprintf(std.out, "%s: %s\n", name, text)
				shown = text
			}
		}
	}
}

// awaitScale waits for another number of workers, if the file asks for it: that is
// set when the roll is done.
func awaitScale(ctx context.Context, std stdio, client *control.Client, before int) error {
	now, err := client.Summary(ctx)
	if err != nil || now.Wanted == before {
		return err
	}
	return awaitWorkers(ctx, std, client, control.Scaled{From: before, To: now.Wanted}, time.Now())
}
