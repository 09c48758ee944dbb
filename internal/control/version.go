package control

import "runtime/debug"

// version is set when a release is built:
// -ldflags "-X github.com/forkd/forkd/internal/control.version=v1.2.3".
var version string

// Version names this build, for `forkd version` and the status of a master. go
// build derives it from the repository's tags and commit.
func Version() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}
