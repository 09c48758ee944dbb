package supervisor

import "github.com/forkd/forkd/internal/control"

// The rule of names, which is the control socket's too: an app's name is that of
// its directory there.
const (
	MaxName  = control.MaxName  // bytes
	NameRule = control.NameRule // what ValidName takes, in words, for errors
)

// ValidName reports whether name may be a Config's Name, or a Listener's.
func ValidName(name string) bool { return control.ValidName(name) }

// Share is the number of slots that text, a share of a machine with cpus CPUs,
// means: "cpus", "cpus-1", "cpus*2+1", "50%". It may be more than MaxWorkers. That
// ok is false says that text is no share.
func Share(text string, cpus int) (n int, ok bool) { return control.Share(text, cpus) }
