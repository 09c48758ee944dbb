package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/sockets"
	"github.com/pelletier/go-toml/v2/unstable"
	"golang.org/x/sys/unix"
)

// value is the value of a key, from the file or a flag.
type value struct {
	kind  unstable.Kind
	text  string  // a string's content, else the spelling
	items []value // of a list, or of a repeated flag
	at    origin
}

// The kinds of value that settings have. Others are refused.
const (
	typed   = unstable.Invalid // from a flag or a variable: text that is read as any type
	text    = unstable.String
	integer = unstable.Integer
	boolean = unstable.Bool
	list    = unstable.Array
)

// String is the value in errors, quoted for the terminal.
func (v value) String() string {
	switch v.kind {
	case typed, text:
		return strconv.Quote(v.text)
	case list:
		return "a list"
	default:
		return cmp.Or(v.text, "a table")
	}
}

// string is text without NUL, which no path, argument or variable can hold.
func (v value) string() (string, error) {
	switch {
	case v.kind != text && v.kind != typed:
		if v.kind == integer {
			return "", fmt.Errorf("must be text: write %q", v.text)
		}
		return "", fmt.Errorf(`must be text in quotes, not %s`, v)
	case strings.ContainsRune(v.text, 0):
		return "", errors.New("must not hold a NUL character")
	}
	return v.text, nil
}

// textOrNumber is text, or a number without quotes.
func (v value) textOrNumber() (string, error) {
	if v.kind == integer {
		v.kind = text
	}
	return v.string()
}

// line is text without control characters.
func (v value) line() (string, error) {
	set, err := v.string()
	if err == nil && strings.ContainsFunc(set, unicode.IsControl) {
		err = errors.New("must not hold a control character")
	}
	return set, err
}

// strings is a list of text.
func (v value) strings() ([]string, error) { return v.list(value.string) }

// list reads a list of text with read.
func (v value) list(read func(value) (string, error)) ([]string, error) {
	if v.kind != list {
		return nil, fmt.Errorf("must be a list, not %s: write [%s]", v, strings.Join(quoted(strings.Fields(v.text)), ", "))
	}
	return each(v, read)
}

// each reads the elements of a list.
func each[T any](v value, read func(value) (T, error)) ([]T, error) {
	all := make([]T, len(v.items))
	for i, item := range v.items {
		one, err := read(item)
		if err != nil {
			return nil, item.at.wrap(err)
		}
		all[i] = one
	}
	return all, nil
}

// exitCodes is a list of exit codes.
func (v value) exitCodes() ([]int, error) {
	if v.kind != list {
		return nil, fmt.Errorf("must be a list of exit codes, not %s: write [78]", v)
	}
	return each(v, func(v value) (int, error) { return v.whole(0, 255) })
}

// name is the name of a listener.
func (v value) name() (string, error) {
	name, err := v.string()
	if err == nil && !control.ValidName(name) {
		err = fmt.Errorf("%q is not a name: %s", name, control.NameRule)
	}
	return name, err
}

// metrics is a TCP address, HOST:PORT; "" for none.
func (v value) metrics() (string, error) {
	address, err := v.textOrNumber() // address = 9640
	if err != nil || address == "" {
		return "", err
	}
	l, err := sockets.ParseTCP(address)
	if err != nil {
		return "", fmt.Errorf("%q: %w", address, err)
	}
	return l.String(), nil
}

// whole is an integer from least to most.
func (v value) whole(least, most int) (int, error) {
	n, err := v.number()
	switch {
	case err == nil && n >= int64(least) && n <= int64(most):
		return int(n), nil
	case v.kind == text:
		return 0, fmt.Errorf("must be a number from %d to %d, not %s in quotes", least, most, v)
	}
	return 0, fmt.Errorf("must be a number from %d to %d, not %s", least, most, v)
}

// number parses a TOML integer, or a decimal of a flag.
func (v value) number() (int64, error) {
	switch v.kind {
	case integer:
		return strconv.ParseInt(v.text, 0, 64)
	case typed:
		return strconv.ParseInt(v.text, 10, 64)
	default:
		return 0, strconv.ErrSyntax
	}
}

// longest bounds durations: doubling one can't overflow.
const longest = 10 * 365 * 24 * time.Hour

// duration is a time.ParseDuration text, at least least.
func (v value) duration(least time.Duration) (time.Duration, error) {
	const valid = `write "500ms", "30s", "5m" or "1h30m"`
	if n, err := strconv.ParseInt(v.text, 10, 64); err == nil && n != 0 {
		return 0, fmt.Errorf("%s has no unit: write \"%ds\" for seconds", v, n)
	}
	if v.kind != text && v.kind != typed {
		return 0, fmt.Errorf("%s is not a duration: %s", v, valid)
	}
	d, err := time.ParseDuration(v.text)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%s is not a duration: %s", v, valid)
	case d < least:
		return 0, fmt.Errorf("%s is too short: the least is %q", v, least.String())
	case d > longest:
		return 0, fmt.Errorf("%s is too long: the most is ten years", v)
	}
	return d, nil
}

// choice is one of the words in built. Those in later are refused as not built yet.
func (v value) choice(built, later []string) (string, error) {
	word := v.text
	switch {
	case v.kind != text && v.kind != typed:
		return "", fmt.Errorf("%s is not valid: use %s", v, either(built))
	case slices.Contains(built, word):
		return word, nil
	case slices.Contains(later, word):
		return "", fmt.Errorf("%s is not built yet: use %s", v, either(built))
	}
	if likely := nearest(word, built); likely != "" {
		return "", fmt.Errorf("%s is not valid: did you mean %q? valid: %s", v, likely, either(built))
	}
	return "", fmt.Errorf("%s is not valid: use %s", v, either(built))
}

// boolean is true or false.
func (v value) boolean() (bool, error) {
	if v.kind != boolean && (v.kind != typed || v.text != "true" && v.text != "false") {
		return false, fmt.Errorf("must be true or false, not %s", v)
	}
	return v.text == "true", nil
}

// umask is octal digits in quotes: 22 without them would be a decimal number.
func (v value) umask() (int, error) {
	if v.kind == text || v.kind == typed {
		mask, err := strconv.ParseUint(v.text, 8, 32)
		if err == nil && mask <= 0o777 {
			return int(mask), nil
		}
	}
	return 0, fmt.Errorf(`%s is not a umask: write octal digits in quotes, "0022"`, v)
}

// signal is the name of a signal that asks a program to end, with or without SIG.
func (v value) signal() (syscall.Signal, error) {
	if v.kind == text || v.kind == typed {
		name := strings.TrimPrefix(strings.ToUpper(v.text), "SIG")
		if slices.Contains([]string{"TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "WINCH"}, name) {
			return unix.SignalNum("SIG" + name), nil
		}
	}
	return 0, fmt.Errorf(`%s is no signal that asks a program to end: use "TERM", "INT", "QUIT", "HUP", "USR1", "USR2" or "WINCH"`, v)
}
