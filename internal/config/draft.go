package config

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/placeholder"
	"github.com/forkd/forkd/supervisor"
)

// draft is an unfinished Config. The settings of the file, then those of the flags are
// put into it, each by its setter. finish does what needs several settings. An error
// does not end it, so that all of the file are reported.
type draft struct {
	*start
	config  supervisor.Config
	origins // of the keys
	schema
	failures []*Error
	refused  map[string]bool // tables
	expanded int             // bytes that variables have been replaced with

	workers      string // as written, as are the next
	user, group  string
	controlGroup string
	balance      string // of --balance
	preset       string // as written
	env          map[string]string
	envFiles     []value
	listeners    []*listener
}

func newDraft(s *start) *draft {
	d := &draft{
		start:   s,
		config:  supervisor.Defaults(),
		origins: origins{},
		refused: map[string]bool{},
		env:     map[string]string{},
		preset:  presetAuto,
	}
	d.config.File, d.config.CPUs = s.path, s.host.cpus()
	d.schema = newSchema(d)
	return d
}

func (d *draft) report(at origin, err error) {
	d.failures = append(d.failures, at.wrap(err))
}

func (d *draft) warn(format string, args ...any) {
	d.config.Warnings = append(d.config.Warnings, fmt.Sprintf(format, args...))
}

func (d *draft) put(at origins, name string, f field, v value) {
	at[name] = v.at
	if err := f.set(v); err != nil {
		d.report(v.at, err)
	}
}

// origins holds where each key was set last.
type origins map[string]origin

// origin is where the first of some keys was set; the file, if none was.
func (d *draft) origin(keys ...string) origin {
	for _, key := range keys {
		if at, given := d.origins[key]; given {
			return at
		}
	}
	return origin{file: d.file}
}

// base is the directory of a relative path that was written at o.
func (d *draft) base(at origin) string {
	if at.flagged() || d.config.File == "" { // standard input counts as typed
		return d.host.directory
	}
	return filepath.Dir(d.config.File)
}

func (d *draft) absolute(path string, at origin) string { return from(d.base(at), path) }

func (d *draft) setCommand(v value) error {
	words, err := v.strings()
	if len(words) > 0 && words[0] == "" {
		err = fmt.Errorf("the program has no name")
	}
	d.config.Command = words
	return err
}

func (d *draft) finish() (supervisor.Config, error) {
	d.finishWorkers()
	d.finishDirectory()
	d.finishPreset()
	d.finishListeners()
	d.finishCommand()
	d.finishEnv()
	d.finishUser()
	d.finishRedis()
	d.finishName()
	d.finishRest()
	switch {
	case len(d.failures) > 0:
		return supervisor.Config{}, together(d.failures)
	case len(d.config.Command) == 0:
		return supervisor.Config{}, d.noCommand()
	}
	d.config.Settings = d.shownSettings()
	return d.config, nil
}

// finishWorkers limits a share of the machine to workers_max, and refuses a larger
// number.
func (d *draft) finishWorkers() {
	at, given := d.origins["workers"]
	if !given {
		d.workers = "cpus"
		d.config.Workers = min(d.config.CPUs, supervisor.MaxWorkers)
	}
	n, most := d.config.Workers, d.config.WorkersMax
	_, share := control.Share(d.workers, 1)
	switch {
	case most > 0 && n > most && share:
		d.config.Workers = most
	case most > 0 && n > most:
		d.report(at, fmt.Errorf("%d is more than workers_max (%d)", n, most))
	case n > supervisor.MaxWorkers && share:
		d.report(at, fmt.Errorf("%s is %d workers: the most is %d", d.workers, n, supervisor.MaxWorkers))
	case n > supervisor.MaxWorkers:
		d.report(at, fmt.Errorf("%d is too many: the most is %d", n, supervisor.MaxWorkers))
	}
}

// finishDirectory checks that the directory exists: the error would otherwise be a
// command that is not found.
func (d *draft) finishDirectory() {
	at, given := d.origins["directory"]
	d.config.Directory = cmp.Or(d.config.Directory, d.base(origin{file: d.file}))
	info, err := os.Stat(d.config.Directory)
	switch {
	case !given:
	case err != nil:
		d.report(at, fmt.Errorf("cannot use %q: %w", d.config.Directory, cause(err)))
	case !info.IsDir():
		d.report(at, fmt.Errorf("%q is not a directory", d.config.Directory))
	}
}

// finishCommand resolves a relative program against the app's directory, so that all
// of a release comes from one symlink; a command that was typed, for a file of another
// directory, against the current directory.
func (d *draft) finishCommand() {
	command := d.config.Command
	at := d.origins["command"]
	if len(command) == 0 {
		return // finish reports it
	}
	for i, word := range command {
		if err := d.checkPlaceholders(word); err != nil && len(d.failures) == 0 { // else the listeners are not all known
			d.report(at, fmt.Errorf("argument %d: %w", i, err))
		}
	}
	if !strings.Contains(command[0], "/") || filepath.IsAbs(command[0]) {
		return
	}
	directory, moved := d.origins["directory"]
	base := d.base(at)
	if moved && (directory.flagged() || !at.flagged()) {
		base = d.config.Directory
	}
	if base != d.config.Directory {
		command[0] = filepath.Join(base, command[0])
	}
}

// checkPlaceholders checks a word of the command or of env. It needs the listeners.
func (d *draft) checkPlaceholders(text string) error {
	scope := placeholder.NewScope(0, 0)
	for _, l := range d.config.Listeners {
		scope.Add(l.Name, l.Network, 0, 0)
	}
	_, err := scope.Expand(text)
	return err
}

func (d *draft) noCommand() *Error {
	if d.file == "" {
		return &Error{Text: "there is no command to run, and no forkd.toml here: try forkd run --listen :8080 -- ./server"}
	}
	at := d.origin("command")
	at.label = ""
	return at.errorf(`there is no command to run: add command = ["./server"], or give one as in forkd run --listen :8080 -- ./server`)
}

func (d *draft) finishName() {
	at, named := d.origins["name"]
	switch {
	case named && !at.flagged() && d.app != "" && d.app != d.config.Name:
		d.report(at, fmt.Errorf("this file is of %q, and %q was asked for: forkd run -c FILE --name %s runs it under that name", d.config.Name, d.app, d.app))
	case named:
	case d.app != "":
		d.config.Name, d.origins["name"] = d.app, origin{label: "APP"}
	case d.config.File != "":
		d.config.Name = asName(strings.TrimSuffix(filepath.Base(d.config.File), ".toml"), "app")
	default:
		d.config.Name = asName(commandName(d.config.Command, d.config.Directory), "app")
	}
}

// finishRest handles settings that depend on one other.
func (d *draft) finishRest() {
	restart := d.config.Restart
	if restart.MaxDelay < restart.Delay {
		d.report(d.origin("restart.max_delay", "restart.delay"), fmt.Errorf("restart.max_delay (%s) must not be less than restart.delay (%s)", restart.MaxDelay, restart.Delay))
	}
	if mask := d.config.MarkMask; mask != 0 && d.config.Workers > supervisor.MarkedSlots(mask) {
		d.report(d.origins["count.mark_mask"], fmt.Errorf("its bits tell %d workers apart, and there are %d: add some", supervisor.MarkedSlots(mask), d.config.Workers))
	}
	if program := d.config.Preset.Name; program != "" && d.config.Recycle.MaxRequests > 0 {
		d.report(d.origins["recycle.max_requests"], fmt.Errorf("forkd does not see the requests of %s, only those of programs with Go's package: use max_age or max_rss", program))
	}
	log := d.config.Log
	if log.Directory != "" && !log.Captured() {
		d.report(d.origin("log.directory"), fmt.Errorf(`needs log.mode = "capture": forkd does not see what workers write`))
	}
	if log.MaxSize < supervisor.MinLogSize {
		d.report(d.origin("log.max_size"), fmt.Errorf("must be at least %dKiB", supervisor.MinLogSize>>10))
	}
	if _, given := d.origins["protocols"]; !given {
		words := slices.AppendSeq(slices.Clone(d.config.Command), maps.Values(d.config.Env))
		if slices.ContainsFunc(words, placeholder.HasFD) {
			d.config.Protocols = nil
		}
	}
}
