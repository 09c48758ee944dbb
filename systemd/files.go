package systemd

import (
	_ "embed" // forkd@.service
	"strings"
)

//go:embed forkd@.service
var template string

// installed is where the shipped unit expects forkd.
const installed = "/usr/bin/forkd"

// UnitFile returns the text of a unit that runs forkd from the file binary:
// forkd@.service, or with app a unit for that app alone. The app's name must be valid.
// The path must be absolute, without quotes, backslashes and control characters, which
// systemd does not allow.
func UnitFile(app, binary string) string {
	text := template
	if app != "" {
		text = strings.Replace(text, "# forkd@APP.service runs the app", "# It runs the app", 1)
		text = strings.NewReplacer("%i", app, "/APP.toml", "/"+app+".toml").Replace(text)
	}
	// Last: the path must not be changed by the replacements above.
	return strings.ReplaceAll(text, "="+installed+" ", "="+execPath(binary)+" ")
}

// execPath escapes a path as the first word of a command (systemd.service(5)).
func execPath(path string) string {
	return strings.NewReplacer("%", "%%", " ", `\x20`, ";", `\x3b`).Replace(path)
}
