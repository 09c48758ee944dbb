package config

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/supervisor"
)

// field sets a setting of the draft or of a listener, and shows it in describe. set
// checks one value; draft.finish checks what needs several settings.
type field struct {
	set  func(value) error
	show func() string
}

func newField[T any](into *T, read func(value) (T, error)) field {
	return field{
		set: func(v value) error {
			set, err := read(v)
			if err == nil {
				*into = set
			}
			return err
		},
		show: func() string { return show(*into) },
	}
}

func (f field) shown(show func() string) field { return field{f.set, show} }

func show(setting any) string {
	switch v := setting.(type) {
	case time.Duration:
		return brief(v)
	case syscall.Signal:
		return strings.TrimPrefix(unix.SignalName(v), "SIG")
	case []string:
		return strings.Join(v, " ")
	case []int:
		return strings.Trim(fmt.Sprint(v), "[]")
	}
	return fmt.Sprint(setting)
}

// brief formats a duration without zero units: "1m", not "1m0s".
func brief(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// path is a file, relative to where it was written; "" for none.
func (d *draft) path(into *string) field {
	return newField(into, func(v value) (string, error) {
		name, err := v.string()
		if name == "" {
			return "", err
		}
		return d.absolute(name, v.at), nil
	})
}

// whole is an integer from least to most: a TOML integer, or a flag's decimal.
func whole[T int | int64](least, most int, into *T) field {
	return newField(into, func(v value) (T, error) {
		n, err := v.whole(least, most)
		return T(n), err
	})
}

// longest bounds durations: doubling one can't overflow.
const longest = 10 * 365 * 24 * time.Hour

// duration is a time.ParseDuration text, at least least.
func duration(least time.Duration, into *time.Duration) field {
	return newField(into, func(v value) (time.Duration, error) {
		if n, err := strconv.ParseInt(v.text, 10, 64); err == nil && n != 0 {
			return 0, fmt.Errorf("%s has no unit: write \"%ds\" for seconds", v, n)
		}
		d, err := time.ParseDuration(v.text)
		switch {
		case err != nil || !v.isText():
			return 0, fmt.Errorf(`%s is not a duration: write "500ms", "30s", "5m" or "1h30m"`, v)
		case d < least:
			return 0, fmt.Errorf("%s is too short: the least is %q", v, least.String())
		case d > longest:
			return 0, fmt.Errorf("%s is too long: the most is ten years", v)
		}
		return d, nil
	})
}

// choice is one of the words in built. later lists words that are not built yet.
func choice[T ~string](into *T, later string, built ...T) field {
	return newField(into, func(v value) (T, error) {
		words := make([]string, len(built))
		for i, word := range built {
			words[i] = string(word)
		}
		set, err := v.choice(words, later)
		return T(set), err
	})
}

// umask is octal digits in quotes: 22 without them would be a decimal number.
func umask(into *int) field {
	read := func(v value) (int, error) {
		mask, err := strconv.ParseUint(v.text, 8, 9)
		if err != nil || !v.isText() {
			return 0, fmt.Errorf(`%s is not a umask: write octal digits in quotes, "0022"`, v)
		}
		return int(mask), nil
	}
	return newField(into, read).shown(func() string {
		if *into < 0 {
			return ""
		}
		return fmt.Sprintf("%04o", *into)
	})
}

// signal is the name of a signal that asks a program to end, with or without SIG.
func signal(into *syscall.Signal) field {
	return newField(into, func(v value) (syscall.Signal, error) {
		name := strings.TrimPrefix(strings.ToUpper(v.text), "SIG")
		if !v.isText() || !slices.Contains([]string{"TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "WINCH"}, name) {
			return 0, fmt.Errorf(`%s is no signal that asks a program to end: use "TERM", "INT", "QUIT", "HUP", "USR1", "USR2" or "WINCH"`, v)
		}
		return unix.SignalNum("SIG" + name), nil
	})
}

// protocols is a list of words in the file, one word for the flag.
func protocols(into *[]string, built ...string) field {
	one := func(v value, words ...string) (string, error) {
		if v.isText() && v.text == "einhorn" { // github.com/contribsys/einhorn: its libraries end the program where they can't acknowledge
			return "", fmt.Errorf("%s is for programs that report to einhorn's own socket, which forkd is not: use %s", v, either(words))
		}
		return v.choice(words, "")
	}
	read := func(v value) ([]string, error) {
		if v.kind != typed {
			return v.list(func(v value) (string, error) {
				if word, err := v.string(); err != nil {
					return word, err
				}
				return one(v, built...)
			})
		}
		word, err := one(v, append(slices.Clone(built), "none")...)
		if err != nil || word == "none" {
			return nil, err
		}
		return []string{word}, nil
	}
	return newField(into, read).shown(func() string { return cmp.Or(show(*into), "none") })
}

// size is a number of bytes, as systemd and Docker write it: "512MiB" or "512M".
func size(into *int64) field {
	units := []string{"B", "K", "M", "G", "T"}
	read := func(v value) (int64, error) {
		if n, err := v.number(); err == nil && n == 0 {
			return 0, nil
		}
		number := strings.TrimRight(v.text, "KMGTiB")
		unit := slices.Index(units, cmp.Or(strings.TrimSuffix(v.text[len(number):], "iB"), "none"))
		n, err := strconv.ParseUint(number, 10, 64)
		switch {
		case errors.Is(err, strconv.ErrRange), unit >= 0 && n > math.MaxInt64>>(10*unit):
			return 0, fmt.Errorf("%s is too large", v)
		case err != nil, unit < 0, !v.isText():
			return 0, fmt.Errorf(`%s is not a size: write "512MiB" or "2GiB"`, v)
		}
		return int64(n) << (10 * unit), nil
	}
	return newField(into, read).shown(func() string {
		n, unit := *into, 0
		for n > 0 && n%1024 == 0 && unit < len(units)-1 {
			n, unit = n/1024, unit+1
		}
		switch {
		case unit > 0:
			return strconv.FormatInt(n, 10) + units[unit] + "iB"
		case n > 0:
			return strconv.FormatInt(n, 10) + "B"
		}
		return "0"
	})
}

// percent is a share of a whole, 0..1.
func percent(into *float64) field {
	read := func(v value) (float64, error) {
		number, ok := strings.CutSuffix(v.text, "%")
		n, err := strconv.ParseUint(number, 10, 8)
		if !ok || err != nil || n > 100 || !v.isText() {
			return 0, fmt.Errorf(`%s is not a share: write "0%%" to "100%%"`, v)
		}
		return float64(n) / 100, nil
	}
	return newField(into, read).shown(func() string { return strconv.Itoa(int(math.Round(*into*100))) + "%" })
}

// mask is adjoining bits of a socket's mark (SO_MARK, socket(7)).
func mask(into *uint32) field {
	read := func(v value) (uint32, error) {
		n, err := strconv.ParseUint(strings.ReplaceAll(v.text, "_", ""), 0, 32)
		if err != nil || v.kind != integer && !v.isText() {
			return 0, fmt.Errorf(`%s is no mask of 32 bits: write "0x0000ff00", or "0" for none`, v)
		}
		if run := n >> bits.TrailingZeros64(n); run&(run+1) != 0 {
			return 0, fmt.Errorf("%s has a gap: its bits must adjoin, as those of 0x0000ff00", v)
		}
		return uint32(n), nil
	}
	return newField(into, read).shown(func() string {
		if *into == 0 {
			return "0"
		}
		return fmt.Sprintf("0x%08x", *into)
	})
}

func exitCodes(into *[]int) field {
	return newField(into, func(v value) ([]int, error) {
		if v.kind != list {
			return nil, fmt.Errorf("must be a list of exit codes, not %s: write [78]", v)
		}
		return each(v, func(v value) (int, error) { return v.whole(0, math.MaxUint8) })
	})
}

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
	case strings.HasPrefix(at.label, "--"), strings.HasPrefix(at.label, presetLabel):
		return at.label
	}
	return "command line"
}

// CommandLine quotes words with spaces or special characters, and empty ones.
func CommandLine(command []string) string {
	words := slices.Clone(command)
	for i, word := range words {
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
