package main

import (
	"cmp"
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
	"github.com/forkd/forkd/internal/redisconfig"
)

const redisVariable = "FORKD_REDIS_URL"

type redisFlags struct {
	url, file            string
	passwordFile, caFile string
	readFrom             string

	source string // of the URL, in words
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

func (r *redisFlags) registerReading(cmd *cobra.Command) {
	r.register(cmd)
	cmd.Flags().StringVar(&r.readFrom, "read-from", "", "read from a `ROLE` of Sentinel or a Cluster: primary or replica")
}

// settings finds Redis by the flags, the environment, or an app that runs here,
// preferably the named one.
func (r *redisFlags) settings(ctx context.Context, app string) (s redisconfig.Settings, err error) {
	variable := os.Getenv(redisVariable)
	switch {
	case r.url != "" && r.file != "":
		err = usage("use only one of --redis and -c")
	case r.url != "":
		s.URL, r.source = r.url, "--redis"
	case r.file != "":
		r.source = r.file
		s, err = config.LoadRedis(r.file)
		if err == nil && s.URL == "" {
			err = usage("%s: there is no redis.url in it: say --redis URL", r.file)
		}
	case variable != "":
		s.URL, r.source = variable, redisVariable
	default:
		var here appStatus
		if here, err = redisHere(ctx, app); err == nil {
			r.source = "the redis.url of " + here.app.App
			s, err = redisOfApp(&here.app, here.foreign)
		}
	}
	if err == nil && s.URL == redisconfig.Embedded {
		err = usage("%s: embedded is a Redis of the app's own: leave this out on the host where the app runs", r.source)
	}
	s.ReadFrom = cmp.Or(r.readFrom, s.ReadFrom)
	for to, flag := range map[*string]string{&s.PasswordFile: r.passwordFile, &s.CAFile: r.caFile} {
		if err == nil && flag != "" {
			*to, err = filepath.Abs(flag)
		}
	}
	return s, err
}

// wrong names the flag, or the other source, of a bad setting.
func (r *redisFlags) wrong(err error) error {
	bad, ok := errors.AsType[*redisconfig.BadSetting](err)
	switch {
	case !ok:
		return err
	case bad.Key == "url" && r.file == "":
		return usage("%s %s", r.source, bad.Text)
	case bad.Key == "password_file" && r.passwordFile != "":
		return usage("--password-file: %s", bad.Text)
	case bad.Key == "ca_file" && r.caFile != "":
		return usage("--ca-file: %s", bad.Text)
	case bad.Key == "read_from" && r.readFrom != "":
		return usage("--read-from %s", bad.Text)
	default:
		return usage("%s: %v", r.source, bad)
	}
}

// redisHere returns an app that runs here and reports to Redis: the named one, or
// else any, if all report to the same Redis.
func redisHere(ctx context.Context, app string) (found appStatus, err error) {
	const advice = "say --redis URL, -c FILE or " + redisVariable
	apps, _ := query(ctx, app)
	if app != "" && (len(apps) == 0 || apps[0].err == nil && apps[0].app.Redis == nil) {
		apps, _ = query(ctx, "")
	}
	var urls []string
	for _, s := range apps {
		if s.err == nil && s.app.Redis != nil && !slices.Contains(urls, s.app.Redis.URL) {
			urls = append(urls, s.app.Redis.URL)
			found = s
		}
	}
	switch err := firstError(apps); {
	case len(urls) == 1:
		return found, nil
	case len(urls) > 1:
		return found, usage("the apps here report to more than one Redis (%s): %s", strings.Join(urls, ", "), advice)
	case err != nil:
		return found, err
	case len(apps) > 0:
		return found, usage("no app here reports to Redis: %s", advice)
	default:
		return found, usage("no app runs here that knows Redis: %s", advice)
	}
}

// redisOfApp returns the settings of an app that runs here. The app tells no
// password: that is in its file. Another user's app must not choose a file of ours,
// whose password would go to that user's Redis.
func redisOfApp(app *control.App, foreign bool) (redisconfig.Settings, error) {
	url := app.Redis.URL
	named := app.Config != "" && !foreign
	var s redisconfig.Settings
	var err error
	if named {
		if s, err = config.LoadRedis(app.Config); err == nil && redisconfig.MaskURL(s.URL) == url {
			return s, nil
		}
	}
	switch {
	case !strings.Contains(url, "***"): // by a flag, or embedded; without the file it may do, if not, Redis says so
		s.URL = url
		return s, nil
	case err != nil:
		return s, fmt.Errorf("cannot read how %s reaches Redis: %w", app.App, err)
	case named:
		return s, usage("%s reports to %s, which is not what its file says, and tells nobody the password: say --redis URL", app.App, url)
	default:
		return s, usage("%s reports to %s, and tells nobody the password: say --redis URL", app.App, url)
	}
}
