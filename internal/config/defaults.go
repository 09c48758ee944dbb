package config

import (
	_ "embed"
	"strings"
)

// defaults is every key with its default, or an example where there is none: the block of
// docs/contract.md, Configuration.
//
//go:embed defaults.toml
var defaults string

// DefaultsFile is a file with every setting, commented out, in lines of at most 80 columns.
func DefaultsFile() string {
	var out strings.Builder
	out.WriteString("# Every setting of forkd, with its default or an example. To change one, remove\n" +
		"# the # before it, and before the [table] that it is in.\n\n")
	for line := range strings.Lines(defaults) {
		code, comment, _ := strings.Cut(strings.TrimSpace(line), "  #")
		width := 0
		for i, word := range strings.Fields(comment) {
			switch {
			case i == 0:
				out.WriteString("#")
			case width+len(" "+word) > 79:
				out.WriteString("\n#")
				width = 0
			}
			out.WriteString(" " + word)
			width += len(" " + word)
		}
		if comment != "" {
			out.WriteString("\n")
		}
		if code = strings.TrimSpace(code); code != "" {
			code = "#" + code
		}
		out.WriteString(code + "\n")
	}
	return out.String()
}
