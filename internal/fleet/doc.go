// Package fleet is what an app says of itself in Redis, and how it is read back.
//
// A [Reporter] is one goroutine that writes the whole state of a host with one
// script at each heartbeat (docs/fleet.md has the keys): what is lost on the way is
// made good by the next. It holds nothing that grows while Redis is away, and
// whatever Redis does, nobody but this goroutine waits for it. A [Reader] reads
// what all hosts have written and takes nothing of it on trust. Times are those
// of Redis's clock.
//
// It must not decide anything about workers: what Redis asks for is handed to the
// [Source].
package fleet

import "github.com/forkd/forkd/internal/redisconfig"

// Settings is the configuration of a Reporter or a Reader.
type Settings = redisconfig.Settings

// BadSetting is what is wrong with one of the Settings.
type BadSetting = redisconfig.BadSetting
