package supervisor

import (
	_ "embed"
	"strconv"
	"strings"

	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/ipc"
)

//go:embed nodedrain.cjs
var nodeDrain string

// nodeDrainName is its name in the runtime directory.
const nodeDrainName = "nodedrain.cjs"

// preload has node load nodedrain.cjs into the worker and into what it starts, after what
// the user has it load. Where it can't be read, node would not start: then it is left out.
func (s spawn) preload(vars map[string]string) {
	path := s.dir.Path(nodeDrainName)
	err := s.dir.Keep(nodeDrainName, nodeDrain)
	if err == nil {
		err = process.CheckReach(path, s.cfg.User.credential())
	}
	if err != nil {
		s.log.Warn("node will not drain: what makes it can't be read by the worker", "slot", s.id.Slot, "why", err)
		return
	}
	if strings.ContainsAny(path, " \"\\") { // node's own quoting
		path = `"` + strings.NewReplacer(`"`, `\"`, `\`, `\\`).Replace(path) + `"`
	}
	vars[ipc.EnvNodeOptions] = strings.TrimSpace(vars[ipc.EnvNodeOptions] + " --require=" + path)
	vars[ipc.EnvDrainTimeout] = strconv.FormatFloat(s.cfg.Drain.Timeout.Seconds(), 'f', -1, 64)
	vars[ipc.EnvDrainIdle] = strconv.FormatFloat(s.cfg.Drain.Idle.Seconds(), 'f', -1, 64)
}
