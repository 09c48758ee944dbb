package config

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/forkd/forkd/supervisor"
)

// shownSettings returns every key with its final value and its source, in the contract's
// order, for describe. An empty value is not set. Variables of env are left out: they
// may be secrets.
func (d *draft) shownSettings() (all []supervisor.Setting) {
	add := func(prefix, name string, f field, at origin) {
		all = append(all, supervisor.Setting{Key: prefix + name, Value: f.show(), Source: d.source(at)})
	}
	for _, k := range keys(d) {
		if k.name == "ready.mode" { // the first of a table
			for _, l := range d.listeners {
				for _, k := range listenKeys(l) {
					if (k.name != "balance" || l.Balance != "") && (k.name != "freebind" || l.Network != "unix") {
						add("listen."+l.Name+".", k.name, k.field, l.origins[k.name])
					}
				}
			}
		}
		add("", k.name, k.field, d.origins[k.name])
	}
	return all
}

func (d *draft) source(at origin) string {
	switch {
	case at.file == "" && at.label == "":
		return "default"
	case !at.flagged():
		line, _ := at.position()
		return fmt.Sprintf("%s:%d", cmp.Or(d.config.File, d.file), line)
	case strings.HasPrefix(at.label, "--"):
		return at.label
	}
	return "command line"
}

// showCommand quotes words with spaces or special characters, and empty ones.
func (d *draft) showCommand() string {
	words := make([]string, len(d.config.Command))
	for i, word := range d.config.Command {
		words[i] = word
		if quoted := strconv.Quote(word); word == "" || strings.ContainsAny(word, ` '"`) || quoted != `"`+word+`"` {
			words[i] = quoted
		}
	}
	return strings.Join(words, " ")
}

// showWorkers is the value as written and its meaning here: "cpus-1 (3)".
func (d *draft) showWorkers() string {
	number := strconv.Itoa(d.config.Workers)
	if _, err := strconv.Atoi(d.workers); err == nil {
		return number
	}
	return d.workers + " (" + number + ")"
}
