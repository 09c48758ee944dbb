package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/forkd/forkd/internal/control"
)

// nothingRuns is the text where no app runs.
const nothingRuns = "no app is running: start one with forkd run --listen :8080 -- ./server"

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

// withApps is withApp, or with all calls f for each app. It goes on after a failure
// and returns the first.
func withApps(cmd *cobra.Command, args []string, all bool, f func(*control.Client) error) error {
	switch {
	case !all && len(args) == 1:
		return withApp(cmd, args, f)
	case !all || len(args) > 0:
		return usage("name one app, or use --all: write %s", cmd.UseLine())
	}
	found := control.List()
	if len(found) == 0 {
		return &exit{exitNoApp, nothingRuns}
	}
	var failures []error
	for _, at := range found {
		if err := connected(at, f); err != nil {
			failures = append(failures, err)
		}
	}
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

// appStatus is the result of a query of one app.
type appStatus struct {
	at      control.Location
	app     control.App
	foreign bool  // of another user than this one, who is not root
	err     error // it did not answer
}

// The bounds of a query of many apps: some may be another user's, slow or large.
const (
	queryTimeout  = 10 * time.Second
	parallelQuery = 16
)

// query asks the named app, or all apps for "". The error says that the name is no
// good; an app that does not answer has its own.
func query(ctx context.Context, name string) ([]appStatus, error) {
	var found []control.Location
	if name == "" {
		found = control.List()
	} else {
		at, err := findApp(name)
		if err != nil {
			return nil, err
		}
		found = []control.Location{at}
	}
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	apps := make([]appStatus, len(found))
	room := make(chan struct{}, parallelQuery)
	var all sync.WaitGroup
	for i, at := range found {
		room <- struct{}{}
		all.Go(func() {
			apps[i] = queryApp(ctx, at)
			<-room
		})
	}
	all.Wait()
	if name == "" { // an app that has ended meanwhile is not an error
		apps = slices.DeleteFunc(apps, func(s appStatus) bool { return is[*control.NoAppError](s.err) })
	}
	return apps, nil
}

func queryApp(ctx context.Context, at control.Location) appStatus {
	client, err := control.Connect(at)
	if err != nil {
		return appStatus{at: at, err: err}
	}
	defer client.Close()
	app, err := client.Status(ctx)
	return appStatus{at: at, app: app, foreign: client.Foreign(), err: err}
}

func firstError(apps []appStatus) error {
	for _, s := range apps {
		if s.err != nil {
			return s.err
		}
	}
	return nil
}

// appNames completes the names of the apps that run.
func appNames(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var names []string
	if len(args) == 0 {
		for _, at := range control.List() {
			names = append(names, at.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
