package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/sockets"
)

const maxFile = 1 << 20

// host is the machine as far as settings depend on it. Tests replace it.
type host struct {
	directory string // the current one
	etc       string // /etc/forkd
	home      string // ~/.config/forkd, "" without a home directory
	uid, gid  int    // the master's
	stdin     io.Reader
	env       func(string) (string, bool)
	cpus      func() int // for the workers
	backlog   func() int // net.core.somaxconn; 0: unknown
}

func thisHost() (host, error) {
	directory, err := os.Getwd()
	if err != nil {
		return host{}, &Error{Text: fmt.Sprintf("cannot find the current directory: %s: change to one that exists", cause(err))}
	}
	h := host{
		directory: directory,
		etc:       "/etc/forkd",
		uid:       os.Geteuid(),
		gid:       os.Getegid(),
		stdin:     os.Stdin,
		env:       os.LookupEnv,
		cpus:      availableCPUs,
		backlog:   sockets.MaxBacklog,
	}
	if home, err := os.UserHomeDir(); err == nil && filepath.IsAbs(home) {
		h.home = filepath.Join(home, ".config/forkd")
	}
	return h, nil
}

// find returns the file of the settings (docs/contract.md, Command line): the one of -c,
// the app's own or ./forkd.toml; "": none. An app without a file is an error, unless
// there is a command.
func (h host) find(named, app string, more bool) (string, error) {
	if named != "" {
		return named, nil
	}
	var candidates []string
	for _, directory := range []string{h.etc, h.home} {
		if app != "" && directory != "" {
			candidates = append(candidates, filepath.Join(directory, app+".toml"))
		}
	}
	candidates = append(candidates, "forkd.toml")
	for _, path := range candidates {
		_, err := os.Lstat(from(h.directory, path))
		if err == nil {
			return path, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", &Error{File: path, Text: "cannot look for it: " + cause(err).Error()}
		}
	}
	switch info, err := os.Stat(filepath.Join(h.directory, app)); {
	case app == "" || more:
	case Interpreter(app) != "":
		return "", &Error{Text: fmt.Sprintf("%q is a script, not an app: %s", app, ScriptHint(app))}
	case err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0:
		return "", &Error{Text: fmt.Sprintf("there is no configuration of %q, and a program of that name here: forkd run ./%s runs it", app, app)}
	default:
		var names []string
		for _, a := range h.apps() {
			names = append(names, a.Name)
		}
		if near := Nearest(app, names); near != "" {
			return "", &Error{Text: fmt.Sprintf("there is no configuration of %q: did you mean %s?", app, near)}
		}
		return "", &Error{Text: fmt.Sprintf("there is no configuration of %q: looked for %s: write one, or say what to run: forkd run %s --listen :8080 -- ./server",
			app, strings.Join(candidates, ", "), app)}
	}
	return "", nil
}

func from(directory, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(directory, path)
}

// readFile reads a regular file of at most maxFile bytes. It never blocks, as opening
// a pipe would.
func readFile(path string) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, cause(err)
	}
	defer file.Close()
	info, err := file.Stat()
	switch {
	case err != nil:
		return nil, cause(err)
	case info.IsDir():
		return nil, errors.New("it is a directory")
	case !info.Mode().IsRegular():
		return nil, errors.New("it is not a regular file")
	}
	return readText(file)
}

func readText(file io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	switch {
	case err != nil:
		return nil, cause(err)
	case len(data) > maxFile:
		return nil, errors.New("it is over 1 MiB: is it the right file?")
	}
	return data, nil
}

const standardInput = "-"

// cause is a file error without the path, which the message has already.
func cause(err error) error {
	if failed, ok := errors.AsType[*fs.PathError](err); ok {
		return failed.Err
	}
	return err
}

// App is an app that has a file of its own.
type App struct{ Name, File string }

// Apps returns those that have /etc/forkd/APP.toml or ~/.config/forkd/APP.toml, in the order
// of the directories, each once.
func Apps() ([]App, error) {
	h, err := thisHost()
	if err != nil {
		return nil, err
	}
	return h.apps(), nil
}

func (h host) apps() (apps []App) {
	for _, directory := range []string{h.etc, h.home} {
		entries, _ := os.ReadDir(directory) // without one there are none
		for _, e := range entries {
			name, ok := strings.CutSuffix(e.Name(), ".toml")
			same := func(a App) bool { return a.Name == name }
			if ok && control.ValidName(name) && !slices.ContainsFunc(apps, same) {
				apps = append(apps, App{name, filepath.Join(directory, e.Name())})
			}
		}
	}
	return apps
}
