package config

import (
	"cmp"
	"fmt"
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

// newField returns the field that read sets into.
func newField[T any](into *T, read func(value) (T, error), show func(T) string) field {
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

func asIs(text string) string { return text }

// word is text on one line.
func word(into *string) field { return newField(into, value.line, asIs) }

// userOrGroup is a name or a number.
func userOrGroup(into *string) field { return newField(into, value.textOrNumber, asIs) }

// path is a file, relative to where it was written; "" for none.
func (d *draft) path(into *string) field {
	read := func(v value) (string, error) {
		name, err := v.string()
		if name == "" {
			return "", err
		}
		return d.absolute(name, v.at), nil
	}
	return newField(into, read, asIs)
}

func yesNo(into *bool) field { return newField(into, value.boolean, strconv.FormatBool) }

func whole[T int | int64](least, most int, into *T) field {
	read := func(v value) (T, error) {
		n, err := v.whole(least, most)
		return T(n), err
	}
	return newField(into, read, func(n T) string { return strconv.FormatInt(int64(n), 10) })
}

func duration(least time.Duration, into *time.Duration) field {
	return newField(into, func(v value) (time.Duration, error) { return v.duration(least) }, brief)
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

// choice is one of the words in built. later lists words that are not built yet.
func choice[T ~string](into *T, later string, built ...T) field {
	read := func(v value) (T, error) {
		words := make([]string, len(built))
		for i, word := range built {
			words[i] = string(word)
		}
		set, err := v.choice(words, strings.Fields(later))
		return T(set), err
	}
	return newField(into, read, func(set T) string { return string(set) })
}

func several[T any](into *[]T, read func(value) ([]T, error)) field {
	return newField(into, read, func(all []T) string {
		words := make([]string, len(all))
		for i, one := range all {
			words[i] = fmt.Sprint(one)
		}
		return strings.Join(words, " ")
	})
}

func umask(into *int) field {
	return newField(into, value.umask, func(mask int) string {
		if mask < 0 {
			return ""
		}
		return fmt.Sprintf("%04o", mask)
	})
}

func signal(into *syscall.Signal) field {
	return newField(into, value.signal, func(s syscall.Signal) string { return strings.TrimPrefix(unix.SignalName(s), "SIG") })
}

func channel(into *bool) field {
	read := func(v value) (bool, error) {
		kind, err := v.choice([]string{"forkd", "none"}, []string{"node"})
		return kind == "forkd", err
	}
	return newField(into, read, func(there bool) string {
		if there {
			return "forkd"
		}
		return "none"
	})
}

// protocols is a list in the file, one word for the flag.
func protocols(into *[]string) field {
	read := func(v value) ([]string, error) {
		built, later := []string{supervisor.ProtocolSystemd}, []string{"server-starter", "einhorn"}
		if v.kind != typed {
			return v.list(func(v value) (string, error) {
				if word, err := v.string(); err != nil {
					return word, err
				}
				return v.choice(built, later)
			})
		}
		word, err := v.choice(append(built, "none"), later)
		if err != nil || word == "none" {
			return nil, err
		}
		return []string{word}, nil
	}
	return newField(into, read, func(all []string) string { return cmp.Or(strings.Join(all, " "), "none") })
}
