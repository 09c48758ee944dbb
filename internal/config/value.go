package config

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/sockets"
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

func (v value) isText() bool { return v.kind == text || v.kind == typed }

// string is text without NUL, which no path, argument or variable can hold.
func (v value) string() (string, error) {
	switch {
	case v.kind == integer:
		return "", fmt.Errorf("must be text: write %q", v.text)
	case !v.isText():
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

func (v value) strings() ([]string, error) { return v.list(value.string) }

func (v value) list(read func(value) (string, error)) ([]string, error) {
	if v.kind != list {
		return nil, fmt.Errorf("must be a list, not %s: write [%s]", v, quoted(strings.Fields(v.text)))
	}
	return each(v, read)
}

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

func (v value) name() (string, error) {
	name, err := v.string()
	if err == nil && !control.ValidName(name) {
		err = fmt.Errorf("%q is not a name: %s", name, control.NameRule)
	}
	return name, err
}

// tcp is a TCP address, HOST:PORT; "" for none.
func (v value) tcp() (string, error) {
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

func (v value) whole(least, most int) (int, error) {
	n, err := v.number()
	switch {
	case v.kind == text:
		return 0, fmt.Errorf("must be a number from %d to %d, not %s in quotes", least, most, v)
	case err != nil || n < int64(least) || n > int64(most):
		return 0, fmt.Errorf("must be a number from %d to %d, not %s", least, most, v)
	}
	return int(n), nil
}

// number parses a TOML integer, or a decimal that is text.
func (v value) number() (int64, error) {
	switch {
	case v.kind == integer:
		return strconv.ParseInt(v.text, 0, 64)
	case v.isText():
		return strconv.ParseInt(v.text, 10, 64)
	default:
		return 0, strconv.ErrSyntax
	}
}

// choice is one of the words in built. Those in later are refused as not built yet.
func (v value) choice(built []string, later string) (string, error) {
	word, valid := v.text, either(built)
	switch {
	case !v.isText():
	case slices.Contains(built, word):
		return word, nil
	case has(later, word):
		return "", fmt.Errorf("%s is not built yet: use %s", v, valid)
	default:
		if likely := Nearest(word, built); likely != "" {
			return "", fmt.Errorf("%s is not valid: did you mean %q? valid: %s", v, likely, valid)
		}
	}
	return "", fmt.Errorf("%s is not valid: use %s", v, valid)
}

func (v value) boolean() (bool, error) {
	if v.kind != boolean && (v.kind != typed || v.text != "true" && v.text != "false") {
		return false, fmt.Errorf("must be true or false, not %s", v)
	}
	return v.text == "true", nil
}

// expand replaces ${NAME} and ${NAME:-DEFAULT} in the strings of a value by the master's
// environment; $${ stands for ${. It runs after the TOML parser: a variable's value is
// text, never syntax. The result counts as a flag's value, of whatever type is wanted.
// braced is set for keys with placeholders: a variable's value cannot begin one. size
// counts the bytes from variables in the whole file, at most 1 MiB.
func (v value) expand(env func(string) (string, bool), braced bool, size *int) (value, error) {
	if v.kind == list {
		items, err := each(v, func(item value) (value, error) { return item.expand(env, braced, size) })
		v.items = items
		return v, err
	}
	if v.kind != text || !strings.Contains(v.text, "${") {
		return v, nil
	}
	var failed error
	variable := regexp.MustCompile(`\$\$\{|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(:-[^}]*)?\})?`)
	v.text = variable.ReplaceAllStringFunc(v.text, func(match string) string {
		switch {
		case failed != nil:
			return ""
		case match == "$${" && braced:
			return "${{"
		case match == "$${":
			return "${"
		}
		parts := variable.FindStringSubmatch(match)
		name, fallback := parts[1], parts[2]
		text, set := env(name)
		switch {
		case name == "" || strings.Contains(fallback, "${"):
			failed = errors.New("${ begins a variable of forkd's environment: write ${NAME} or ${NAME:-DEFAULT}, or $${ for ${ itself")
		case fallback != "" && text == "":
			text = fallback[len(":-"):]
		case !set:
			failed = fmt.Errorf("%s is not set in forkd's environment: set it, write ${%s:-DEFAULT}, or $${%s} to leave it to the program", name, name, name)
		case braced:
			text = strings.ReplaceAll(text, "{", "{{")
		}
		if *size += len(text); *size > maxFile {
			failed = errors.New("brings what comes of variables in this file to over 1 MiB")
		}
		v.kind = typed
		return text
	})
	return v, failed
}
