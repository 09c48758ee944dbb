package config

import "strings"

// nameRule is docs/contract.md, section 1, in words.
const nameRule = "a name is up to 48 letters, digits, dots, dashes and underscores, and begins with a letter or a digit"

const maxName = 48

// validName is [A-Za-z0-9][A-Za-z0-9._-]{0,47}.
func validName(name string) bool {
	return name != "" && len(name) <= maxName && alphanumeric(rune(name[0])) &&
		!strings.ContainsFunc(name, func(r rune) bool { return !inName(r) })
}

func alphanumeric(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}

func inName(r rune) bool { return alphanumeric(r) || strings.ContainsRune("._-", r) }

// asName makes a valid name of any text: "app" where nothing is left of it.
func asName(text string) string {
	name := strings.Map(func(r rune) rune {
		if inName(r) {
			return r
		}
		return '-'
	}, text)
	name = strings.TrimLeft(name, "._-")
	name = strings.TrimRight(name[:min(len(name), maxName)], "._-")
	if name == "" {
		return "app"
	}
	return name
}
