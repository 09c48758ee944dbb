package config

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/forkd/forkd/supervisor"
)

// settings is every key with the value that holds in the end and where it was
// written, in the contract's order: what describe shows. Variables of env are
// not among it; they may be secrets. An empty value is one that is not set.
func (d *draft) settings() []supervisor.Setting {
	var all []supervisor.Setting
	listed := false
	for _, k := range keys(d) {
		if table, _ := split(k.name); table != "" && !listed {
			all, listed = append(all, d.listenSettings()...), true
		}
		source := d.source(d.places[k.name])
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
			source := d.source(l.places[k.name])
			if k.name == "balance" && d.balance != "" {
				source = d.source(d.places["balance"])
			}
			all = append(all, supervisor.Setting{Key: "listen." + l.Name + "." + k.name, Value: k.show(), Source: source})
		}
	}
	return all
}

// source is where a setting was written, in words.
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

// showCommand quotes words that would read as several, or as none.
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

// showWorkers is what was written, and what it means here: "cpus-1 (3)".
func (d *draft) showWorkers() string {
	number := strconv.Itoa(d.config.Workers)
	if _, err := strconv.Atoi(d.workers); err == nil {
		return number
	}
	return d.workers + " (" + number + ")"
}
