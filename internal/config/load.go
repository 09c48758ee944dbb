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
	stdin   []byte // its content, once it has been read
	flags   *Flags
	app     string
	command []string
}

// load makes the Config. running is the name of the app at a reload, "" at the start:
// the name can't change.
func (s *start) load(running string) (supervisor.Config, error) {
	d, err := s.read("")
	if err != nil {
		return supervisor.Config{}, err
	}
	if running != "" && s.file == standardInput {
		d.warn("the configuration came from standard input, which is read once: this reload starts the workers anew with the same settings")
	}
	cfg, err := d.finish()
	if err != nil {
		return supervisor.Config{}, err
	}
	if running != "" && cfg.Name != running {
		return supervisor.Config{}, d.origin("name").errorf("this app runs as %q and can't become %q: stop it, then start it under the new name", running, cfg.Name)
	}
	name := cfg.Name
	cfg.Reload = func() (supervisor.Config, error) { return s.load(name) }
	return cfg, nil
}

// read puts all settings into a draft, or those of one table.
func (s *start) read(table string) (*draft, error) {
	d := newDraft(s.host)
	d.app, d.file = s.app, s.file
	if d.file != "" {
		settings, err := s.parse(d)
		if err != nil {
			return nil, err
		}
		d.acceptAll(slices.DeleteFunc(settings, func(s setting) bool { return table != "" && s.path[0] != table }))
	}
	d.readFlags(s.flags)
	if len(s.command) > 0 {
		words := typedValue("command", s.command...)
		words.kind = list
		d.put(d.origins, "command", d.keys["command"].field, words)
	}
	return d, nil
}

// parse reads the file, standard input only once.
func (s *start) parse(d *draft) ([]setting, error) {
	var data []byte
	var err error
	if d.file == standardInput {
		d.file = "stdin"
		if s.stdin == nil {
			s.stdin, err = readText(s.host.stdin)
		}
		data = s.stdin
	} else {
		d.config.File = from(s.host.directory, d.file)
		data, err = readFile(d.config.File)
	}
	if err != nil {
		return nil, &Error{File: d.file, Text: fmt.Sprintf("cannot read it: %s", err)}
	}
	return parse(d.file, data)
}

// acceptAll puts the file's settings into the draft. For a table that is not built
// yet, the error is that of its first key, or of the header if it is empty.
func (d *draft) acceptAll(settings []setting) {
	for i, s := range settings {
		followed := i+1 < len(settings) && settings[i+1].path[0] == s.name
		if s.form == unstable.KeyValue || !followed || !d.isLater(s.name) {
			d.accept(s)
		}
	}
}

// accept puts one setting of the file into the draft, or reports why not.
func (d *draft) accept(s setting) {
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
		d.listeners = append(d.listeners, newListener(labelled(at, "listen")))
	case table == "listen" && s.item >= 0 && leaf && slices.Contains(d.names, name):
		l, key := d.listeners[s.item], s.path[1]
		d.put(l.origins, key, l.field(key), s.value)
	case table == "env" && len(s.path) == 2 && leaf:
		d.setVariable(s.path[1], s.value)
	case table == "env" && len(s.path) > 1:
		d.report(labelled(at, "env."+s.path[1]), fmt.Errorf("must be text, not a table"))
	case s.form == unstable.Table && (name == "env" || slices.Contains(d.tables, name)):
		// Its settings follow.
	case d.isLater(name):
		d.report(at, fmt.Errorf("%q is not built yet", name))
	case len(d.failures) == 0: // one is enough
		d.report(at, d.refuse(s))
	}
}

func labelled(at origin, label string) origin {
	at.label = label
	return at
}

// readFlags puts the flags into the draft, over the file's settings.
func (d *draft) readFlags(f *Flags) {
	for _, k := range flagKeys(d) {
		if words := f.given[k.name]; len(words) > 0 {
			d.put(d.origins, k.name, k.field, typedValue("--"+k.flag, words...))
		}
	}
	if words := f.given["listen"]; len(words) > 0 {
		d.listeners = nil
		for _, v := range typedValue("--listen", words...).items {
			l := newListener(v.at)
			d.put(l.origins, "address", l.field("address"), v)
			d.listeners = append(d.listeners, l)
		}
	}
	for _, word := range f.given["env"] {
		name, text, assigned := strings.Cut(word, "=")
		v := typedValue("--env", text)
		if !assigned {
			d.report(v.at, fmt.Errorf("%q has no value: write --env %s=VALUE", name, name))
			continue
		}
		d.setVariable(name, v)
	}
}

// typedValue is the last of the words, with all of them as its items.
func typedValue(label string, words ...string) value {
	v := value{kind: typed, text: words[len(words)-1], at: origin{label: label}}
	for _, word := range words {
		v.items = append(v.items, value{kind: typed, text: word, at: v.at})
	}
	return v
}
