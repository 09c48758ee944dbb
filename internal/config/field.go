package config

import (
	"cmp"
	"fmt"
	"math"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/supervisor"
)

// field is how a setting gets into a D, the draft or a listener, and how describe
// shows it when that is finished. A setter checks one value; what needs several
// settings is left to draft.finish.
type field[D any] struct {
	set  func(D, value) error
	show func(D) string
}

// of is the field that read makes of a value.
func of[D, T any](into func(D) *T, read func(value) (T, error), show func(T) string) field[D] {
	return field[D]{
		set: func(d D, v value) error {
			set, err := read(v)
			if err == nil {
				*into(d) = set
			}
			return err
		},
		show: func(d D) string { return show(*into(d)) },
	}
}

func itself(text string) string { return text }

// word is text on one line.
func word[D any](into func(D) *string) field[D] { return of(into, value.line, itself) }

// identity is a name or a number of a user or group.
func identity(into func(*draft) *string) field[*draft] { return of(into, value.textOrNumber, itself) }

// path is a file, relative to where it was written; "" for none.
func path(into func(*draft) *string) field[*draft] {
	return field[*draft]{
		set: func(d *draft, v value) error {
			name, err := v.string()
			if err == nil && name != "" {
				name = d.absolute(name, v.at)
			}
			*into(d) = name
			return err
		},
		show: func(d *draft) string { return *into(d) },
	}
}

// shown is f with another show.
func (f field[D]) shown(show func(D) string) field[D] {
	f.show = show
	return f
}

func yesNo[D any](into func(D) *bool) field[D] { return of(into, value.boolean, strconv.FormatBool) }

func whole[D any](least, most int, into func(D) *int) field[D] {
	return of(into, func(v value) (int, error) { return v.whole(least, most) }, strconv.Itoa)
}

// count is a number of connections; 0 is for none said.
func count(into func(*draft) *int64) field[*draft] {
	read := func(v value) (int64, error) {
		n, err := v.whole(0, math.MaxInt32)
		return int64(n), err
	}
	return of(into, read, func(n int64) string { return strconv.FormatInt(n, 10) })
}

func duration(least time.Duration, into func(*draft) *time.Duration) field[*draft] {
	return of(into, func(v value) (time.Duration, error) { return v.duration(least) }, brief)
}

// brief is a duration as a person writes it: "1m", not "1m0s".
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

// choice is one of the words in built; those in later are promised, and refused.
func choice[D any, T ~string](into func(D) *T, built []T, later ...string) field[D] {
	read := func(v value) (T, error) {
		words := make([]string, len(built))
		for i, word := range built {
			words[i] = string(word)
		}
		set, err := v.choice(words, later)
		return T(set), err
	}
	return of(into, read, func(set T) string { return string(set) })
}

func several[T any](into func(*draft) *[]T, read func(value) ([]T, error)) field[*draft] {
	return of(into, read, func(all []T) string {
		words := make([]string, len(all))
		for i, one := range all {
			words[i] = fmt.Sprint(one)
		}
		return strings.Join(words, " ")
	})
}

func umask(into func(*draft) *int) field[*draft] {
	return of(into, value.umask, func(mask int) string {
		if mask < 0 {
			return ""
		}
		return fmt.Sprintf("%04o", mask)
	})
}

func signal(into func(*draft) *syscall.Signal) field[*draft] {
	return of(into, value.signal, func(s syscall.Signal) string { return strings.TrimPrefix(unix.SignalName(s), "SIG") })
}

func protocols(into func(*draft) *[]string) field[*draft] {
	return of(into, value.protocols, func(all []string) string { return cmp.Or(strings.Join(all, " "), "none") })
}

func channel(into func(*draft) *bool) field[*draft] {
	read := func(v value) (bool, error) {
		kind, err := v.choice([]string{"forkd", "none"}, []string{"node"})
		return kind == "forkd", err
	}
	return of(into, read, func(there bool) string {
		if there {
			return "forkd"
		}
		return "none"
	})
}

// protocols is a list in the file, and one word of a flag.
func (v value) protocols() ([]string, error) {
	built, later := []string{supervisor.ProtocolSystemd}, []string{"server-starter", "einhorn"}
	if v.kind == typed {
		word, err := v.choice(append(built, "none"), later)
		if err != nil || word == "none" {
			return nil, err
		}
		return []string{word}, nil
	}
	words, err := v.strings()
	for i, word := range words {
		if _, err := (value{kind: text, text: word}).choice(built, later); err != nil {
			return nil, v.items[i].at.wrap(err)
		}
	}
	return words, err
}
