package config

import (
	"strings"

	"github.com/forkd/forkd/internal/control"
)

// inName reports whether a name may contain r after its first character.
func inName(r rune) bool { return control.ValidName("a" + string(r)) }

// asName makes a valid name of any text, other if no character is valid.
func asName(text, other string) string {
	name := strings.Map(func(r rune) rune {
		if inName(r) {
			return r
		}
		return '-'
	}, text)
	name = strings.TrimLeft(name, "._-")
	name = strings.TrimRight(name[:min(len(name), control.MaxName)], "._-")
	if name == "" {
		return other
	}
	return name
}
