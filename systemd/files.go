package systemd

import (
	_ "embed" // forkd@.service
	"fmt"
	"strings"
)

//go:embed forkd@.service
var template string

// installed is where the shipped unit expects forkd.
const installed = "/usr/bin/forkd"

// UnitFile returns the text of a unit that runs forkd from the file binary: of
// forkd@.service, or of one app's own, forkd@APP.service under any name. The
// app's name must be valid, the path absolute and without quotes, backslashes
// and control characters: systemd runs nothing of such a name.
func UnitFile(app, binary string) string {
	text := template
	if app != "" {
		text = strings.Replace(text, "# forkd@APP.service runs the app", "# It runs the app", 1)
		text = strings.NewReplacer("%i", app, "/APP.toml", "/"+app+".toml").Replace(text)
	}
	// Last: what is in the path is its own.
	return strings.ReplaceAll(text, "="+installed+" ", "="+execPath(binary)+" ")
}

// execPath writes a path as the first word of a command (systemd.service(5)):
// no specifiers, and nothing that would end the word.
func execPath(path string) string {
	var word strings.Builder
	for _, c := range []byte(path) {
		switch {
		case c == '%':
			word.WriteString("%%")
		case c == ' ' || c == ';':
			fmt.Fprintf(&word, `\x%02x`, c)
		default:
			word.WriteByte(c)
		}
	}
	return word.String()
}
