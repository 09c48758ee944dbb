package main

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/forkd/forkd/internal/config"
	"github.com/forkd/forkd/internal/control"
)

// theirs is the word for something in other programs, and what forkd has in its place.
type theirs struct {
	words string // separated by spaces
	of    string // of a command: the programs, "" where it is forkd's own; of a flag: the flag that a command must have for this to be said, "" for none
	ours  string
}

// theirCommands are commands that forkd has by another name, or does not need.
func theirCommands() []theirs {
	const (
		supervisord = "supervisord"
		systemctl   = "systemctl"
		swarm       = "Docker"
		logs        = "use forkd logs APP, with -f to follow them"
		gone        = "use forkd stop APP, then take its file away, /etc/forkd/APP.toml; its history stays in the state directory"
	)
	return []theirs{
		{"upgrade", "", "upgrade is not built yet: stop the app and run it again"},
		{"roll", "", "roll is forkd reload --keep-config APP on this host, and forkd fleet roll APP on all"},
		{"restart", "pm2, " + supervisord + " and " + systemctl, "use forkd reload APP, which replaces the workers one by one"},
		{"gracefulReload startOrReload startOrRestart startOrGracefulReload", "pm2", "use forkd reload APP"},
		{"delete del", "pm2", gone},
		{"save dump resurrect cleardump", "pm2", "an app's settings are its file, /etc/forkd/APP.toml, which forkd start --write writes, and systemd starts it: systemctl enable forkd@APP"},
		{"startup unstartup", "pm2", "use systemctl enable forkd@APP; where that unit is not installed, forkd unit APP prints one"},
		{"jlist prettylist", "pm2", "use forkd status --json"},
		{"flush reloadLogs clear", "pm2 and " + supervisord, "forkd's log files are bounded, by log.max_size and log.max_files; SIGUSR1 to the master opens them again"},
		{"init ecosystem", "pm2", "use forkd check --defaults, which prints a file with every setting"},
		{"env", "pm2", "use forkd describe APP, which has the names of the variables; no output has their values"},
		{"id", "pm2", "use forkd pid APP, or forkd status"},
		{"ping", "pm2", "there is no daemon; use forkd status -q APP, which exits 0 when all is well"},
		{"reset", "pm2", "counters begin anew with the master"},
		{"sendSignal trigger", "pm2", "use forkd send APP JSON for a message, kill -SIGNAL $(forkd pid APP) for a signal"},
		{"attach fg", "pm2 and " + supervisord, "workers have no standard input; " + logs},
		{"log", "docker and pm2", logs},
		{"tail maintail", supervisord, logs},
		{"reread", supervisord, "use forkd check -c FILE; forkd reload APP takes the file"},
		{"add avail", supervisord, "an app is a file, /etc/forkd/APP.toml: forkd start APP starts it, forkd start --all every one that does not run"},
		{"update", "pm2, " + supervisord + " and " + swarm, "change the file, then use forkd reload APP"},
		{"remove rm", supervisord + " and " + swarm, gone},
		{"shutdown quit exit", supervisord + " and nginx", "use forkd stop APP"},
		{"signal", supervisord + " and nginx", "use kill -SIGNAL $(forkd pid APP): forkd run --help lists the signals"},
		{"reopen", "nginx", "use kill -USR1 $(forkd pid APP)"},
		{"enable", systemctl, "use forkd unit APP, which prints a unit, then systemctl enable it"},
		{"disable mask unmask", systemctl, "use systemctl itself, on the unit that runs the app"},
		{"is-active is-failed is-enabled", systemctl, "use forkd status -q APP, which exits 0 when all is well"},
		{"daemon-reload", systemctl, "nothing is cached: forkd reload APP reads the file"},
		{"reload-or-restart try-restart condrestart try-reload-or-restart force-reload", systemctl, "use forkd reload APP"},
		{"cat edit", systemctl, "forkd status --json has the file's name as config: look there, change it, then forkd reload APP"},
		{"list-units list-unit-files", systemctl, "use forkd status"},
		{"reset-failed", systemctl, "use forkd reload APP, which starts slots that have failed"},
		{"test configtest", "nginx and apachectl", "use forkd check -c FILE"},
		{"rollback", swarm, "a roll that fails goes back by itself; to go back later, point the release at the old one, then forkd reload APP"},
		{"create service stack deploy up", swarm, "use forkd run, and forkd reload APP for a new release"},
		{"down", swarm, "use forkd stop APP"},
		{"inspect", swarm, "use forkd describe APP, with --json for programs"},
		{"node swarm", swarm, "use forkd fleet, for an app on many hosts"},
	}
}

// theirFlags are flags of others, for a key or for a command of forkd.
func theirFlags() []theirs {
	return []theirs{
		{"v V", "", "forkd version prints the version"},
		{"d D daemon daemonize detach background", "", "forkd start runs an app in the background; in the foreground it is forkd run"},
		{"no-daemon nodaemon foreground", "", "what stays in the foreground is forkd run"},
		{"i instances replicas processes num-workers w", "workers", "use --workers N"},
		{"n", "name", "use --name NAME"},
		{"b p bind port publish address socket", "listen", "use --listen ADDRESS"},
		{"e E", "env", "use --env NAME=VALUE"},
		{"f config-file", "config", "use -c FILE"},
		{"t T", "", "forkd check says whether a configuration is good"},
		{"s", "", "use forkd reload APP, forkd stop APP, or kill -USR1 $(forkd pid APP) to open log files again"},
		{"u uid", "user", "use --user USER"},
		{"gid", "group", "use --group GROUP"},
		{"chdir cwd working-dir workdir", "directory", "use --directory DIR"},
		{"pid pidfile", "pid-file", "use --pid-file FILE"},
		{"graceful-timeout kill-timeout stop-grace-period stop-timeout", "drain-timeout", "use --drain-timeout TIME"},
		{"restart-condition", "restart", "use --restart WHICH"},
		{"restart-max-attempts max-restarts", "max-attempts", "use --max-attempts N"},
		{"update-parallelism", "parallelism", "use --parallelism N"},
		{"update-order", "order", "use --order ORDER"},
		{"update-monitor", "monitor", "use --monitor TIME"},
		{"update-failure-action", "failure-action", "use --failure-action ACTION"},
		{"max-requests", "config", "set [recycle] max_requests in the file"},
		{"max-memory-restart reload-on-rss", "config", "set [recycle] max_rss in the file"},
		{"limit-memory memory", "config", "set [limits] memory_max in the file"},
		{"watch", "config", "forkd does not watch files: forkd reload APP takes a new release"},
		{"timeout", "stall", "use --stall TIME for a worker that accepts nothing, --drain-timeout TIME for one that does not end"},
		{"log-file error-logfile access-logfile output error", "config", "set [log] directory in the file"},
		{"update-env", "", "the variables are the file's: change it, then forkd reload APP"},
		{"nostream", "follow", "forkd logs shows what there is and ends; -f goes on"},
		{"now", "", "forkd kill APP ends it at once"},
	}
}

func find(all []theirs, word string) (theirs, bool) {
	i := slices.IndexFunc(all, func(t theirs) bool { return slices.Contains(strings.Fields(t.words), word) })
	if i < 0 {
		return theirs{}, false
	}
	return all[i], true
}

// noSuchCommand is the error of a first argument that is the name of no command
// below parent. Cobra's own has several lines.
func noSuchCommand(parent *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	word := args[0]
	if !parent.HasParent() {
		if t, known := find(theirCommands(), word); known && t.of == "" {
			return usage("%s", t.ours)
		} else if known {
			return usage("%s is a command of %s: %s", word, t.of, t.ours)
		}
		if hint := runHint(word); hint != "" {
			return usage("%q is no command: %s", word, hint)
		}
	}
	path := strings.TrimPrefix(parent.CommandPath()+" "+word, "forkd ")
	var names []string
	for _, group := range parent.Commands() {
		if group.IsAvailableCommand() {
			names = append(names, group.Name())
		}
		for _, cmd := range group.Commands() {
			if cmd.Name() == word && cmd.IsAvailableCommand() {
				return usage("unknown command %q: did you mean %s?", path, cmd.CommandPath())
			}
		}
	}
	if near := config.Nearest(word, names); near != "" {
		return usage("unknown command %q: did you mean %s %s?", path, parent.CommandPath(), near)
	}
	return usage("unknown command %q: see %s --help", path, parent.CommandPath())
}

// runHint is how to run a file or a program, if a word looks like one; "": it does not.
func runHint(word string) string {
	switch {
	case strings.HasSuffix(word, ".toml"):
		return "write forkd run -c " + word
	case config.Interpreter(word) != "":
		return config.ScriptHint(word)
	case strings.Contains(word, "/"):
		return "write forkd run " + word
	}
	return ""
}

func flagError(cmd *cobra.Command, err error) error {
	if before := cmd.Flags().Args(); cmd.HasSubCommands() && len(before) > 0 {
		return noSuchCommand(cmd, before)
	}
	unknown, ok := errors.AsType[*pflag.NotExistError](err)
	if !ok {
		return usage("%s: see %s --help", flagText(err), cmd.CommandPath())
	}
	name, long := unknown.GetSpecifiedName(), unknown.GetSpecifiedShortnames() == ""
	of, where := cmd, ""
	if run, _, none := cmd.Root().Find([]string{"run"}); none == nil && !cmd.HasParent() {
		of, where = run, ", with forkd run"
	}
	t, known := find(theirFlags(), name)
	switch known = known && long == (len(name) > 1); {
	case known && t.of == "":
		return usage("%s: %s", flagText(err), t.ours)
	case known && of.Flags().Lookup(t.of) != nil:
		return usage("%s: %s%s", flagText(err), t.ours, where)
	case where != "" && (of.Flags().Lookup(name) != nil || !long && of.Flags().ShorthandLookup(name) != nil):
		return usage("%s: it is one of forkd run", flagText(err))
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if near := config.Nearest(name, names); long && near != "" {
		return usage("%s: did you mean --%s?", flagText(err), near)
	}
	return usage("%s: see %s --help", flagText(err), cmd.CommandPath())
}

// findApp is control.Find, with the name probably meant where there is none.
func findApp(name string) (control.Location, error) {
	at, err := control.Find(name)
	if none, ok := errors.AsType[*control.NoAppError](err); ok {
		var names []string
		for _, l := range control.Look().Live {
			names = append(names, l.Name)
		}
		files, _ := config.Apps()
		for _, a := range files {
			names = append(names, a.Name)
			none.Stopped = none.Stopped || a.Name == name
		}
		none.Near = config.Nearest(filepath.Base(name), names)
	}
	return at, err
}
