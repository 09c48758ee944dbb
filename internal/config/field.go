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

// field is how a setting gets into the draft or a listener, and how describe shows it
// when that is finished. set checks one value; what needs several settings is left to
// draft.finish.
type field struct {
	set  func(value) error
	show func() string
}

// of is the field that read makes of a value.
func of[T any](into *T, read func(value) (T, error), show func(T) string) field {
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

func itself(text string) string { return text }

// word is text on one line.
func word(into *string) field { return of(into, value.line, itself) }

// identity is a name or a number of a user or group.
func identity(into *string) field { return of(into, value.textOrNumber, itself) }

// path is a file, relative to where it was written; "" for none.
func (d *draft) path(into *string) field {
	read := func(v value) (string, error) {
		name, err := v.string()
		if name == "" {
			return "", err
		}
		return d.absolute(name, v.at), nil
	}
	return of(into, read, itself)
}

func yesNo(into *bool) field { return of(into, value.boolean, strconv.FormatBool) }

func whole(least, most int, into *int) field {
	return of(into, func(v value) (int, error) { return v.whole(least, most) }, strconv.Itoa)
}

// count is a number of connections; 0 is for none said.
func count(into *int64) field {
	read := func(v value) (int64, error) {
		n, err := v.whole(0, math.MaxInt32)
		return int64(n), err
	}
	return of(into, read, func(n int64) string { return strconv.FormatInt(n, 10) })
}

func duration(least time.Duration, into *time.Duration) field {
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

// choice is one of the words in built; later are words that are not built yet.
func choice[T ~string](into *T, later string, built ...T) field {
	read := func(v value) (T, error) {
		words := make([]string, len(built))
		for i, word := range built {
			words[i] = string(word)
		}
		set, err := v.choice(words, strings.Fields(later))
		return T(set), err
	}
	return of(into, read, func(set T) string { return string(set) })
}

func several[T any](into *[]T, read func(value) ([]T, error)) field {
	return of(into, read, func(all []T) string {
		words := make([]string, len(all))
		for i, one := range all {
			words[i] = fmt.Sprint(one)
		}
		return strings.Join(words, " ")
	})
}

func umask(into *int) field {
	return of(into, value.umask, func(mask int) string {
		if mask < 0 {
			return ""
		}
		return fmt.Sprintf("%04o", mask)
	})
}

func signal(into *syscall.Signal) field {
	return of(into, value.signal, func(s syscall.Signal) string { return strings.TrimPrefix(unix.SignalName(s), "SIG") })
}

func channel(into *bool) field {
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
	return of(into, read, func(all []string) string { return cmp.Or(strings.Join(all, " "), "none") })
}
