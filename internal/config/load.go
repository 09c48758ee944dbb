package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/supervisor"
	"github.com/pelletier/go-toml/v2/unstable"
)

// Load makes the Config of an app. f holds the flags; app is the APP argument, "" without
// one; command is what follows "--", nil without it. Flags and command win over the file.
// Users, groups, CPUs and files are read each time, by the Config's Reload too. The error
// is an *Error.
func Load(f *Flags, app string, command []string) (supervisor.Config, error) {
	h, err := thisHost()
	if err != nil {
		return supervisor.Config{}, err
	}
	return h.load(f, app, command)
}

func (h host) load(f *Flags, app string, command []string) (supervisor.Config, error) {
	if app != "" && !control.ValidName(app) {
		return supervisor.Config{}, &Error{Text: fmt.Sprintf("%q is not the name of an app: %s", app, control.NameRule)}
	}
	file, err := h.find(f.file, app, len(command) > 0)
	if err != nil {
		return supervisor.Config{}, err
	}
	s := &start{host: h, file: file, flags: f, app: app, command: command}
	return s.load("")
}

// start holds the command line as long as the app runs. A reload reads the same file:
// it does not look for one again.
type start struct {
	host    host   // with the directory of the start
	file    string // as the user would name it, "" without one
	path    string // absolute; "" for standard input
	stdin   []byte // its content, once it has been read
	flags   *Flags
	app     string // the argument
	command []string
}

// load makes the Config. running is the name of the app at a reload, "" at the start:
// the name can't change.
func (s *start) load(running string) (supervisor.Config, error) {
	d, err := s.read("")
	if err != nil {
		return supervisor.Config{}, err
	}
	if running != "" && s.stdin != nil {
		d.warn("the configuration came from standard input, which is read once: this reload starts the workers anew with the same settings")
	}
	cfg, err := d.finish()
	if err != nil {
		return supervisor.Config{}, err
	}
	name := cfg.Name
	if running != "" && name != running {
		return supervisor.Config{}, d.origin("name").errorf("this app runs as %q and can't become %q: stop it, then start it under the new name", running, name)
	}
	cfg.Reload = func() (supervisor.Config, error) { return s.load(name) }
	return cfg, nil
}

// read puts all settings into a draft, or those of one table.
func (s *start) read(table string) (*draft, error) {
	settings, failed, err := s.settings()
	if err != nil {
		return nil, err
	}
	d := newDraft(s)
	d.failures = failed
	for _, s := range slices.DeleteFunc(settings, func(s setting) bool { return table != "" && s.path[0] != table }) {
		d.accept(s)
	}
	d.readFlags()
	if len(failed) > 0 { // a setting that seems to be missing may be what is broken
		return nil, together(d.failures)
	}
	return d, nil
}

// settings reads those of the file, standard input only once.
func (s *start) settings() (settings []setting, failed []*Error, err error) {
	data := s.stdin
	switch {
	case s.file == "" || data != nil:
	case s.file == standardInput:
		s.file = "stdin"
		data, err = readText(s.host.stdin)
		s.stdin = data
	default:
		s.path = from(s.host.directory, s.file)
		data, err = readFile(s.path)
	}
	if err != nil {
		return nil, nil, &Error{File: s.file, Text: fmt.Sprintf("cannot read it: %s", err)}
	}
	settings, failed = parse(s.file, data)
	return settings, failed, nil
}

func (d *draft) accept(s setting) {
	if s.twice != nil {
		d.failures = append(d.failures, s.twice)
		return
	}
	for n := range s.path { // what is below a table that is none says nothing more
		if d.refused[strings.Join(s.path[:n], ".")] {
			return
		}
	}
	failed := len(d.failures)
	defer func() {
		if len(d.failures) > failed && s.form != unstable.KeyValue {
			d.refused[strings.Join(s.path, ".")] = true
		}
	}()
	name, at := s.name, s.at
	table, leaf := s.path[0], s.form == unstable.KeyValue
	if leaf {
		var err error
		if s.value, err = s.value.expand(d.host.env, name == "command" || table == "env", &d.expanded); err != nil {
			d.report(s.value.at, err)
			return
		}
	}
	k, known := d.keys[name]
	switch {
	case known && leaf:
		d.put(d.origins, name, k.field, s.value)
	case known:
		d.report(at, fmt.Errorf("%q is one value, not a table", name))
	case s.form == unstable.ArrayTable && name == "listen":
		at.label = "listen"
		d.addListener(at)
	case table == "listen" && s.item >= 0 && leaf && slices.Contains(d.names, name):
		l, key := d.listeners[s.item], s.path[1]
		d.put(l.origins, key, l.field(key), s.value)
	case table == "env" && len(s.path) == 2 && leaf:
		d.setVariable(s.path[1], s.value)
	case table == "env" && len(s.path) > 1:
		at.label = "env." + s.path[1]
		d.report(at, fmt.Errorf("must be text, not a table"))
	case s.form == unstable.Table && (name == "env" || slices.Contains(d.tables, name)):
		// Its settings follow.
	case len(d.failures) < maxFailures: // each is compared with all keys
		d.report(at, d.refuse(s))
	}
}

// readFlags puts the flags and the command into the draft, over the file's settings.
func (d *draft) readFlags() {
	given := d.flags.given
	for _, k := range flagKeys(d) {
		if words := given[k.name]; len(words) > 0 {
			v := words[len(words)-1]
			v.items = words
			d.put(d.origins, k.name, k.field, v)
		}
	}
	if given["listen"] != nil {
		d.listeners = nil
	}
	for _, v := range given["listen"] {
		l := d.addListener(v.at)
		d.put(l.origins, "address", l.field("address"), v)
	}
	for _, v := range given["env"] {
		name, text, assigned := strings.Cut(v.text, "=")
		if !assigned {
			d.report(v.at, fmt.Errorf("%q has no value: write --env %s=VALUE", name, name))
			continue
		}
		v.text = text
		d.setVariable(name, v)
	}
	if len(d.command) > 0 {
		command := value{kind: list, at: origin{label: "command"}}
		for _, word := range d.command {
			command.items = append(command.items, value{kind: typed, text: word, at: command.at})
		}
		d.put(d.origins, "command", d.keys["command"].field, command)
	}
}
