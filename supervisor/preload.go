package supervisor

import (
	"archive/zip"
	_ "embed"
	"errors"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/ipc"
)

var (
	//go:embed nodedrain.cjs
	nodeDrain string
	//go:embed pydrain.py
	pythonDrain string
)

// Their names in the runtime directory.
const (
	nodeDrainName   = "nodedrain.cjs"
	pythonDrainName = "pydrain.zip"
)

// preload has node or Python load the file that makes the program drain (Preset.Drains), in
// the worker and in what it starts. Where it can't be read, node would not start: then it
// is left out.
func (s spawn) preload(vars map[string]string) {
	var err error
	switch s.cfg.Preset.Drains {
	case DrainsNode:
		err = s.preloadNode(vars)
	case DrainsPython:
		err = s.preloadPython(vars)
	default:
		return
	}
	if err != nil {
		s.log.Warn(s.cfg.Preset.Drains+" will not drain: what makes it can't be read by the worker", "slot", s.id.Slot, "why", err)
		return
	}
	vars[ipc.EnvDrainTimeout] = strconv.FormatFloat(s.cfg.Drain.Timeout.Seconds(), 'f', -1, 64)
	vars[ipc.EnvDrainIdle] = strconv.FormatFloat(s.cfg.Drain.Idle.Seconds(), 'f', -1, 64)
}

// preloadNode has the file loaded after what the user has node load.
func (s spawn) preloadNode(vars map[string]string) error {
	path, err := s.keep(nodeDrainName, nodeDrain)
	if err != nil {
		return err
	}
	if strings.ContainsAny(path, " \"\\") { // node's own quoting
		path = `"` + strings.NewReplacer(`"`, `\"`, `\`, `\\`).Replace(path) + `"`
	}
	vars[ipc.EnvNodeOptions] = strings.TrimSpace(vars[ipc.EnvNodeOptions] + " --require=" + path)
	return nil
}

// preloadPython has the file found before another sitecustomize, which it runs.
func (s spawn) preloadPython(vars map[string]string) error {
	archive, err := pythonArchive()
	if err != nil {
		return err
	}
	path, err := s.keep(pythonDrainName, archive)
	if err != nil {
		return err
	}
	if strings.ContainsRune(path, filepath.ListSeparator) {
		return errors.New("PYTHONPATH can't name " + path)
	}
	if rest := vars[ipc.EnvPythonPath]; rest != "" { // an empty entry would be the working directory
		path += string(filepath.ListSeparator) + rest
	}
	vars[ipc.EnvPythonPath] = path
	return nil
}

// pythonArchive is pydrain.py where Python looks for sitecustomize. In a directory Python
// would put its compiled form beside it, and find other files there.
func pythonArchive() (string, error) {
	var text strings.Builder
	archive := zip.NewWriter(&text)
	file, err := archive.CreateHeader(&zip.FileHeader{Name: "sitecustomize.py", Method: zip.Store})
	if err == nil {
		_, err = file.Write([]byte(pythonDrain))
	}
	err = errors.Join(err, archive.Close())
	return text.String(), err
}

// keep puts a file into the runtime directory, for the worker to read.
func (s spawn) keep(name, text string) (path string, err error) {
	if err := s.dir.Keep(name, text); err != nil {
		return "", err
	}
	path = s.dir.Path(name)
	return path, process.CheckReach(path, s.cfg.User.credential())
}
