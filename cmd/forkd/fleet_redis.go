package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/forkd/forkd/internal/config"
	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/fleet"
	"github.com/forkd/forkd/internal/redisconfig"
)

// redisVariable names Redis in the environment.
const redisVariable = "FORKD_REDIS_URL"

// redisFlags say where Redis is, and how to be let in.
type redisFlags struct {
	url, file            string
	passwordFile, caFile string
	readFrom             string
}

func (r *redisFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&r.url, "redis", "", "the `URL` of Redis: redis:// rediss:// unix:// redis+sentinel:// redis+cluster://")
	cmd.Flags().StringVarP(&r.file, "config", "c", "", "find Redis as the app of this `FILE` does")
	cmd.Flags().StringVar(&r.passwordFile, "password-file", "", "a `FILE` with the password, instead of in the URL")
	cmd.Flags().StringVar(&r.caFile, "ca-file", "", "a `FILE` with the certificates to trust, for rediss://")
	cmd.PreRun = func(cmd *cobra.Command, _ []string) {
		if strings.Contains(redisconfig.MaskURL(r.url), ":***@") {
			fmt.Fprintln(cmd.ErrOrStderr(), "forkd: warning: every user of this machine can read the password on the command line: leave it out of the URL, and give --password-file FILE, or set "+redisVariable)
		}
	}
}

// registerReading is for commands that only read.
func (r *redisFlags) registerReading(cmd *cobra.Command) {
	r.register(cmd)
	cmd.Flags().StringVar(&r.readFrom, "read-from", "", "read from a `ROLE` of Sentinel or a Cluster: primary or replica")
}

// settings finds Redis: by the flags, the environment, or an app that runs here,
// preferably the named one.
func (r *redisFlags) settings(ctx context.Context, app string) (fleet.Settings, error) {
	s, said, err := r.found(ctx, app)
	if err != nil {
		return s, err
	}
	s.HostID = "reader" // this host's name may be no host id, and is not needed
	for _, over := range []struct {
		by   string
		into *string
	}{{r.passwordFile, &s.PasswordFile}, {r.caFile, &s.CAFile}} {
		if over.by != "" {
			if *over.into, err = filepath.Abs(over.by); err != nil {
				return s, fmt.Errorf("cannot find %s: %v", over.by, err)
			}
		}
	}
	if r.readFrom != "" {
		s.ReadFrom = r.readFrom
	}
	if s.URL == "embedded" {
		return s, usage("%s: embedded is a Redis of the app's own: leave this out on the host where the app runs", said)
	}
	return s, r.inWords(s.Check(), said)
}

// inWords names the flag, or what else it was, that a bad setting comes from.
func (r *redisFlags) inWords(err error, said string) error {
	bad, ok := errors.AsType[*fleet.BadSetting](err)
	if !ok {
		return err
	}
	switch {
	case bad.Key == "url" && strings.HasPrefix(bad.Text, "\""):
		return usage("%s: %s", said, bad.Text)
	case bad.Key == "url" && r.file != "":
		return usage("%s: redis.url %s", said, bad.Text)
	case bad.Key == "url":
		return usage("%s %s", said, bad.Text)
	case bad.Key == "password_file" && r.passwordFile != "":
		return usage("--password-file: %s", bad.Text)
	case bad.Key == "ca_file" && r.caFile != "":
		return usage("--ca-file: %s", bad.Text)
	case bad.Key == "read_from" && r.readFrom != "":
		return usage("--read-from %s", bad.Text)
	default:
		return usage("%s: %v", said, bad)
	}
}

// found is what the settings begin with, and who has said it.
func (r *redisFlags) found(ctx context.Context, app string) (s fleet.Settings, said string, err error) {
	switch {
	case r.url != "" && r.file != "":
		return s, "", usage("use only one of --redis and -c")
	case r.url != "":
		return fleet.Settings{URL: r.url}, "--redis", nil
	case r.file != "":
		s, err = redisOf(r.file)
		if err == nil && s.URL == "" {
			err = usage("%s: there is no redis.url in it: say --redis URL", r.file)
		}
		return s, r.file, err
	}
	if url := os.Getenv(redisVariable); url != "" {
		return fleet.Settings{URL: url}, redisVariable, nil
	}
	return redisHere(ctx, app)
}

// howToSay is what to do where Redis can't be found.
const howToSay = "say --redis URL, -c FILE or " + redisVariable

// redisHere asks the apps that run here: the named one, or else all of them.
func redisHere(ctx context.Context, app string) (fleet.Settings, string, error) {
	var apps []appStatus
	if at, err := control.Find(app); app != "" && err == nil {
		apps = []appStatus{queryApp(ctx, at)}
	}
	if len(apps) == 0 || apps[0].err == nil && apps[0].app.Redis == nil {
		var err error
		if apps, err = query(ctx, ""); err != nil {
			return fleet.Settings{}, "", err
		}
	}
	var urls []string
	var one appStatus
	for _, s := range apps {
		if s.err == nil && s.app.Redis != nil && !slices.Contains(urls, s.app.Redis.URL) {
			urls = append(urls, s.app.Redis.URL)
			one = s
		}
	}
	switch {
	case len(urls) > 1:
		return fleet.Settings{}, "", usage("the apps here report to more than one Redis (%s): %s", strings.Join(urls, ", "), howToSay)
	case len(urls) == 1:
		s, err := redisOfApp(&one.app, one.foreign)
		return s, "the redis.url of " + one.app.App, err
	case len(apps) > 0:
		if err := firstError(apps); err != nil {
			return fleet.Settings{}, "", err
		}
		return fleet.Settings{}, "", usage("no app here reports to Redis: %s", howToSay)
	default:
		return fleet.Settings{}, "", usage("no app runs here that knows Redis: %s", howToSay)
	}
}

// redisOfApp finds Redis as an app that runs here does. The app tells no password:
// that is in its file, or in the file that this one names.
// Another user's does not choose a file of ours, whose password would go to a
// Redis of its own.
func redisOfApp(app *control.App, foreign bool) (fleet.Settings, error) {
	url := app.Redis.URL
	secret := strings.Contains(url, "***")
	if app.Config == "" || foreign {
		if secret {
			return fleet.Settings{}, usage("%s reports to %s, and tells nobody the password: say --redis URL", app.App, url)
		}
		return fleet.Settings{URL: url}, nil
	}
	s, err := redisOf(app.Config)
	switch {
	case err != nil && secret:
		return s, fmt.Errorf("cannot read how %s reaches Redis: %w", app.App, err)
	case err != nil:
		return fleet.Settings{URL: url}, nil //nolint:nilerr // it may do without the rest; if not, Redis says so
	case redisconfig.MaskURL(s.URL) == url:
		return s, nil
	case secret:
		return s, usage("%s reports to %s, which is not what its file says, and tells nobody the password: say --redis URL", app.App, url)
	}
	s.URL = url // by a flag, or embedded
	return s, nil
}

// redisOf reads from an app's file how it finds Redis.
func redisOf(file string) (fleet.Settings, error) {
	r, err := config.LoadRedis(file)
	return r, err
}
