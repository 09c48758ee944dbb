package fleet

import (
	"fmt"

	"github.com/forkd/forkd/internal/control"
)

// CheckApp reports what is wrong with the name of an app.
func CheckApp(name string) error {
	if !control.ValidName(name) {
		return fmt.Errorf("%q is no name of an app: 1 to 48 of A-Z a-z 0-9 . _ -, a letter or digit first", name)
	}
	return nil
}

// appsKey is a zset of the names of all apps: a name scores when it expires, in
// ms since the epoch.
const appsKey = "forkd:apps"

// keys names what belongs to an app in Redis (docs/contract.md, Redis). The
// braces make one slot of a Cluster of them.
type keys struct{ app string }

func (k keys) hosts() string             { return k.of("hosts") }
func (k keys) host(id string) string     { return k.of("host:" + id) }
func (k keys) load() string              { return k.of("load") }
func (k keys) events() string            { return k.of("events") }
func (k keys) changed() string           { return k.of("changed") }
func (k keys) left(id string) string     { return k.of("left:" + id) }
func (k keys) leader() string            { return k.of("leader") }
func (k keys) advice() string            { return k.of("advice") }
func (k keys) commands(id string) string { return k.of("cmd:" + id) }

func (k keys) of(what string) string { return "forkd:{" + k.app + "}:" + what }
