package config

import (
	"errors"
	"fmt"
	"strings"
)

// expand replaces ${NAME} and ${NAME:-DEFAULT} in a string of the file, or in those of
// a list, by the master's environment; $${ is ${ itself. It comes after TOML's own
// reading: what a variable holds is never more than text. A value that has come of a
// variable counts as a flag's, of whatever type is wanted. braced is for keys with
// placeholders: what comes of this begins none.
func (v value) expand(env func(string) (string, bool), braced bool) (value, error) {
	if v.kind == list {
		items := make([]value, len(v.items))
		for i, item := range v.items {
			var err error
			item.at.label = v.at.label
			if items[i], err = item.expand(env, braced); err != nil {
				return v, item.at.wrap(err)
			}
			v.at.variables += items[i].at.variables
		}
		v.items = items
		return v, nil
	}
	if v.kind != text {
		return v, nil
	}
	var out strings.Builder
	for rest := v.text; ; {
		before, after, found := strings.Cut(rest, "${")
		literal, escaped := strings.CutSuffix(before, "$")
		switch {
		case out.Len() > maxFile:
			return v, errors.New("is over 1 MiB with its variables replaced")
		case !found:
			out.WriteString(rest)
			v.text = out.String()
			return v, nil
		case escaped:
			out.WriteString(literal + "${")
			if braced {
				out.WriteByte('{')
			}
			rest = after
			continue
		}
		inside, behind, closed := strings.Cut(after, "}")
		name, fallback, optional := strings.Cut(inside, ":-")
		if !closed || !isVariable(name) || strings.Contains(fallback, "${") {
			return v, errors.New("${ begins a variable of forkd's environment: write ${NAME} or ${NAME:-DEFAULT}, or $${ for ${ itself")
		}
		text, set := env(name)
		switch {
		case optional && text == "":
			text = fallback
		case !set:
			return v, fmt.Errorf("%s is not set in forkd's environment: set it, write ${%s:-DEFAULT}, or $${%s} to leave it to the program", name, name, name)
		case braced:
			text = strings.ReplaceAll(text, "{", "{{")
		}
		out.WriteString(before + text)
		v.kind = typed
		v.at.variables += ", ${" + name + "}"
		rest = behind
	}
}

// isVariable reports whether a shell would take name for a variable's.
func isVariable(name string) bool {
	return name != "" && strings.Trim(name[:1], "0123456789") != "" &&
		strings.IndexFunc(name, func(r rune) bool {
			return r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
		}) < 0
}
