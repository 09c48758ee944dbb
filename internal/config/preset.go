package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/supervisor"
)

// preset is what forkd knows of a program that it can't see. Lists are separated by
// spaces. One that names options holds where the command has one of them, or where the
// configuration names the preset.
type preset struct {
	name     string
	programs string         // base names
	with     string         // options of the command, in one word or two: -DFOREGROUND
	without  string         // the same, for options that undo it
	stop     syscall.Signal // that makes it finish what it has
	blocking bool           // it needs sockets without O_NONBLOCK
	notifies string         // with this option it sends READY=1 in every version
	drains   string         // supervisor.Preset.Drains
	why      string
}

// presets returns all of them. The signals are those of the programs' manuals.
func presets() []preset {
	return []preset{
		{name: "apache", programs: "apache2 httpd", with: "-DFOREGROUND", stop: unix.SIGWINCH, why: "TERM cuts requests"},
		{name: "celery", programs: "celery", stop: unix.SIGTERM, why: "finishes its jobs; QUIT drops them"},
		{name: "gunicorn", programs: "gunicorn", stop: unix.SIGTERM, drains: supervisor.DrainsPython, why: "it would cut kept connections: a preload drains its gthread and uvicorn workers"},
		{name: "haproxy", programs: "haproxy", stop: unix.SIGUSR1, notifies: "-Ws", why: "TERM cuts requests"},
		{name: "lighttpd", programs: "lighttpd", stop: unix.SIGINT, why: "TERM cuts requests"},
		{name: "nginx", programs: "nginx openresty angie freenginx", stop: unix.SIGQUIT, why: "TERM cuts requests"},
		{name: "node", programs: "node nodejs npm npx yarn pnpm tsx ts-node next nuxt nest fastify", stop: unix.SIGTERM, drains: supervisor.DrainsNode, why: "it would cut requests: a preload drains its HTTP servers"},
		{name: "php-fpm", programs: "php-fpm", stop: unix.SIGQUIT, blocking: true, why: "TERM cuts requests; its children end where accept(2) does not wait"},
		{name: "unicorn", programs: "unicorn unicorn_rails rainbows", stop: unix.SIGQUIT, why: "TERM cuts requests"},
		{name: "uvicorn", programs: "uvicorn fastapi", stop: unix.SIGTERM, drains: supervisor.DrainsPython, why: "it would cut kept connections: a preload drains it"},
		{name: "uwsgi", programs: "uwsgi uwsgi-core", with: "--master -M", without: "--die-on-term", stop: unix.SIGINT, why: "TERM makes it start again"},
	}
}

// The other values of the key.
const (
	presetAuto = "auto"
	presetNone = "none"
)

func (d *draft) readPreset(v value) (string, error) {
	words := []string{presetAuto, presetNone}
	for _, p := range presets() {
		words = append(words, p.name)
	}
	return v.choice(words, "")
}

// showPreset is "auto (nginx)" where the command decided, and says what forkd adds to the
// program.
func (d *draft) showPreset() string {
	text := d.preset
	if d.preset == presetAuto {
		text = fmt.Sprintf("%s (%s)", d.preset, cmp.Or(d.config.Preset.Name, presetNone))
	}
	if by := d.config.Preset.Drains; by != "" {
		text += ", with forkd's drain for " + by
	}
	return text
}

// finishPreset gives the preset's values to settings that have none. The listeners are
// finished later.
func (d *draft) finishPreset() {
	command := programs(d.config.Command, d.config.Directory)
	var p preset
	for _, known := range presets() {
		if d.preset == known.name || d.preset == presetAuto && known.fits(command) {
			p = known
		}
	}
	if p.name == "" {
		return
	}
	d.config.Preset = supervisor.Preset{Name: p.name, Drains: p.drains}
	for _, program := range command {
		d.config.Preset.Notifies = d.config.Preset.Notifies || p.notifies != "" && hasOption(program.args, p.notifies)
	}
	at := origin{label: presetLabel + p.name}
	if _, given := d.origins["stop_signal"]; !given && p.stop != d.config.StopSignal {
		d.config.StopSignal, d.origins["stop_signal"] = p.stop, at
	}
	for _, l := range d.listeners {
		if _, given := l.origins["nonblocking"]; !given && p.blocking {
			l.Nonblocking, l.origins["nonblocking"] = false, at
		}
	}
}

// presetLabel begins the label of a setting's origin.
const presetLabel = "preset "

// fits reports whether the preset is the command's: that of its innermost known program.
func (p preset) fits(command []program) bool {
	for _, program := range slices.Backward(command) {
		for _, known := range presets() {
			if !program.own && isProgram(known.programs, program.name) {
				return known.name == p.name && p.holds(program.args)
			}
		}
	}
	return false
}

func (p preset) holds(args []string) bool {
	one := func(options string) bool {
		return slices.ContainsFunc(strings.Fields(options), func(option string) bool { return hasOption(args, option) })
	}
	return (p.with == "" || one(p.with)) && !one(p.without)
}

// hasOption reports whether there is an option, in one word or in two: -D FOREGROUND.
func hasOption(args []string, option string) bool {
	for i, arg := range args {
		split := i+1 < len(args) && arg+args[i+1] == option && len(arg) == 2
		if arg == option || split {
			return true
		}
	}
	return false
}

// PresetHelp describes each preset in a line: name, programs, what it sets and why.
func PresetHelp() (lines []string) {
	for _, p := range presets() {
		programs := strings.ReplaceAll(p.programs, " ", ", ")
		if p.with != "" {
			programs += " with " + strings.ReplaceAll(p.with, " ", " or ")
		}
		if p.without != "" {
			programs += ", without " + p.without
		}
		sets := "stop_signal " + show(p.stop)
		if p.blocking {
			sets += ", nonblocking false"
		}
		if p.notifies != "" {
			sets += ", with " + p.notifies + " ready when it says so"
		}
		lines = append(lines, fmt.Sprintf("%-10s   %s: %s (%s)", p.name, programs, sets, p.why))
	}
	return lines
}
