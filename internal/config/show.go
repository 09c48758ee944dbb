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
func (d *draft) shownSettings() []supervisor.Setting {
	var all []supervisor.Setting
	listed := false
	for _, k := range keys(d) {
		if table, _ := split(k.name); table != "" && !listed {
			all, listed = append(all, d.listenSettings()...), true
		}
		source := d.source(d.origins[k.name])
		if k.name == "name" && source == "default" && d.app != "" {
			source = "command line"
		}
		all = append(all, supervisor.Setting{Key: k.name, Value: k.show(), Source: source})
	}
	return all
}

func (d *draft) listenSettings() []supervisor.Setting {
	var all []supervisor.Setting
	for _, l := range d.listeners {
		for _, k := range listenKeys(l) {
			if k.name == "balance" && l.Mode != "reuseport" || k.name == "freebind" && l.Network == "unix" {
				continue
			}
			source := d.source(l.origins[k.name])
			if k.name == "balance" && d.balance != "" {
				source = d.source(d.origins["balance"])
			}
			all = append(all, supervisor.Setting{Key: "listen." + l.Name + "." + k.name, Value: k.show(), Source: source})
		}
	}
	return all
}

// source names where a setting was written.
func (d *draft) source(at origin) string {
	switch {
	case at.file == "" && at.label == "":
		return "default"
	case !at.flagged():
		line, _ := at.position()
		return fmt.Sprintf("%s:%d", cmp.Or(d.config.File, d.file), line)
	case strings.HasPrefix(at.label, "--"):
		return at.label
	default:
		return "command line"
	}
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
