package config

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

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
