package main

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"

	"github.com/spf13/cobra"

	"github.com/forkd/forkd/internal/control"
)

const nothingRuns = "no app is running: start one with forkd run --listen :8080 -- ./server"

// nothingOfYours is the text where other users' apps may run.
const nothingOfYours = "no app of yours is running"

// withApp calls f with a client of the app that the one argument names.
func withApp(cmd *cobra.Command, args []string, f func(*control.Client) error) error {
	if len(args) != 1 {
		return usage("name one app: write %s", cmd.UseLine())
	}
	at, err := findApp(args[0])
	if err != nil {
		return err
	}
	return connected(at, f)
}

// withApps is withApp, or with all calls f for each app, for all at a time if together is
// set. It goes on after a failure and returns the first.
func withApps(cmd *cobra.Command, args []string, all, together bool, f func(*control.Client) error) error {
	switch {
	case !all && len(args) == 1:
		err := withApp(cmd, args, f)
		if none, ok := errors.AsType[*control.NoAppError](err); ok && args[0] == "all" { // as pm2 and supervisorctl call them
			none.Near = "--all"
		}
		return err
	case !all:
		return usage("name one app, or use --all: write %s", cmd.UseLine())
	case len(args) > 0:
		return usage("name one app or use --all, not both: write %s", cmd.UseLine())
	}
	there := control.Look()
	if len(there.Live) == 0 && len(there.Others) > 0 {
		return &exit{exitNoApp, nothingOfYours + ": " + othersText(there.Others)}
	}
	if len(there.Live) == 0 {
		return &exit{exitNoApp, nothingRuns}
	}
	results := make([]error, len(there.Live))
	var running sync.WaitGroup
	for i, at := range there.Live {
		run := func() { results[i] = connected(at, f) }
		if together {
			running.Go(run)
		} else {
			run()
		}
	}
	running.Wait()
	failures := slices.DeleteFunc(results, func(err error) bool { return err == nil })
	if len(failures) <= 1 {
		return errors.Join(failures...)
	}
	code, text := exitCode(failures[0])
	return &exit{code, fmt.Sprintf("%s (and %d more failed)", text, len(failures)-1)}
}

// connected calls f with a client, and puts the app's name before an error of its
// master.
func connected(at control.Location, f func(*control.Client) error) error {
	client, err := control.Connect(at)
	if err != nil {
		return err
	}
	defer client.Close()
	err = f(client)
	if refusal, ok := errors.AsType[*control.Error](err); ok {
		return fmt.Errorf("%s: %s", at.Name, refusal.Text)
	}
	return err
}

// argumentError makes wrong usage of what a master refuses as a bad argument.
func argumentError(name string, err error) error {
	refusal, ok := errors.AsType[*control.Error](err)
	if ok && (refusal.Code == http.StatusBadRequest || refusal.Code == http.StatusRequestEntityTooLarge) {
		return usage("%s: %s", name, refusal.Text)
	}
	return err
}

func appNames(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var names []string
	if len(args) == 0 {
		for _, at := range control.Look().Live {
			names = append(names, at.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
