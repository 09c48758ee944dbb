package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"unicode"

	"github.com/forkd/forkd/ipc"
)

// Errors in this file never show the value of a variable: it may be a secret.

func (d *draft) setVariable(name string, v value) {
	d.origins["env."+name] = v.at
	set, err := v.string()
	if !v.isText() {
		err = errors.New("must be text: write the value in quotes") // without showing it
	}
	if err = cmp.Or(checkVariable(name), err); err != nil {
		d.report(v.at, err)
	}
	d.env[name] = set
}

// checkVariable refuses invalid names, and those that forkd sets for each worker.
func checkVariable(name string) error {
	switch name {
	case "FORKD_RUNTIME_DIR", "FORKD_STATE_DIR", "FORKD_REDIS_URL":
		return nil
	case ipc.EnvListenFDs, ipc.EnvListenPID, ipc.EnvListenFDNames, ipc.EnvNotifySocket, ipc.EnvWatchdogUsec, ipc.EnvWatchdogPID:
		return fmt.Errorf("forkd sets %s for each worker itself", name)
	}
	switch {
	case name == "" || strings.ContainsAny(name, "=\x00"):
		return fmt.Errorf("%q can't be the name of a variable", name)
	case strings.HasPrefix(name, "FORKD_"):
		return fmt.Errorf("forkd sets %s for each worker itself", name)
	}
	return nil
}

// setEnvFile takes one file or a list.
func (d *draft) setEnvFile(v value) error {
	d.envFiles = v.items
	if v.kind != list && len(v.items) == 0 {
		d.envFiles = []value{v}
	}
	for _, file := range d.envFiles {
		if name, err := file.string(); err != nil {
			d.envFiles = nil
			return file.at.wrap(err)
		} else if name == "-" {
			d.envFiles = nil
			return file.at.errorf("- is no file: write -NAME for one that may be missing")
		}
	}
	d.envFiles = slices.DeleteFunc(slices.Clone(d.envFiles), func(file value) bool { return file.text == "" })
	return nil
}

func (d *draft) showEnvFile() string {
	var files []string
	for _, file := range d.envFiles {
		name, optional := strings.CutPrefix(file.text, "-") // may be missing, as in systemd
		name = d.absolute(name, file.at)
		if optional {
			name = "-" + name
		}
		files = append(files, name)
	}
	return strings.Join(files, " ")
}

// finishEnv merges the files of env_file, then env: the last one wins. Placeholders are
// replaced in env only.
func (d *draft) finishEnv() {
	merged := map[string]string{}
	for _, file := range d.envFiles {
		name, optional := strings.CutPrefix(file.text, "-")
		path := d.absolute(name, file.at)
		data, err := readFile(path)
		if optional && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			d.report(file.at, fmt.Errorf("cannot read %q: %w", path, err))
			return
		}
		variables, err := parseEnvFile(name, data)
		if err != nil {
			d.report(file.at, err)
			return
		}
		for name, value := range variables {
			merged[name] = strings.ReplaceAll(value, "{", "{{")
		}
	}
	checked := len(d.failures) == 0 // else the listeners are not all known
	for _, name := range slices.Sorted(maps.Keys(d.env)) {
		if checked && d.checkPlaceholders(d.env[name]) != nil {
			d.report(d.origins["env."+name], d.badPlaceholder())
		}
	}
	maps.Copy(merged, d.env)
	d.config.Env = merged
}

func (d *draft) badPlaceholder() error {
	names := "there is no listener"
	var words, portless []string
	for _, l := range d.config.Listeners {
		words = append(words, l.Name)
		if l.Network == "unix" {
			portless = append(portless, l.Name)
		}
	}
	if len(words) > 0 {
		names = "NAME is " + either(words)
	}
	if len(portless) > 0 {
		names += ", without a port where it is " + either(portless)
	}
	return fmt.Errorf("a brace begins {fd}, {fd:NAME}, {port}, {port:NAME}, {slot} or {generation}, and %s: write {{ for a brace", names)
}

// parseEnvFile reads NAME=VALUE lines, like systemd's EnvironmentFile= and Docker's
// --env-file. It skips blank lines, lines that begin with # or ; and a leading
// "export". Single quotes keep a value as it is; double quotes know \n, \t, \", \\, \$,
// \` and a \ at the end of a line; both may span lines. A value without quotes is the
// trimmed rest of the line. No variables are replaced.
func parseEnvFile(name string, data []byte) (map[string]string, error) {
	variables := map[string]string{}
	whole := bytes.ReplaceAll(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")), []byte("\r\n"), []byte("\n"))
	for rest := string(whole); rest != ""; {
		at := origin{file: name, text: whole, offset: len(whole) - len(rest)}
		from := rest
		line, below, _ := strings.Cut(from, "\n")
		line, rest = strings.TrimSpace(line), below
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		key, text, assigned := strings.Cut(strings.TrimPrefix(line, "export "), "=")
		key, text = strings.TrimSpace(key), strings.TrimSpace(text)
		if !assigned || strings.ContainsAny(key, " \t") {
			return nil, at.errorf("not a variable: write NAME=VALUE, one on each line")
		}
		if err := checkVariable(key); err != nil {
			return nil, at.wrap(err)
		}
		at.label = key
		switch {
		case text != "" && (text[0] == '"' || text[0] == '\''):
			_, quoted, _ := strings.Cut(from, "=")
			value, behind, closed := unquote(strings.TrimLeftFunc(quoted, unicode.IsSpace))
			if !closed {
				return nil, at.errorf("the quote that begins here is not closed: a value in quotes may span lines, and ends with the same quote")
			}
			line, rest, _ = strings.Cut(behind, "\n")
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				at.offset = bytes.LastIndexByte(whole[:len(whole)-len(behind)], '\n') + 1
				return nil, at.errorf("there is more after the closing quote")
			}
			text = value
		case strings.HasSuffix(text, `\`):
			return nil, at.errorf(`a value without quotes must not end in \: some programs go on in the next line there: put it in single quotes`)
		}
		if strings.ContainsRune(text, 0) {
			return nil, at.errorf("the value must not hold a NUL character")
		}
		variables[key] = text
	}
	return variables, nil
}

// unquote reads a value in quotes. behind is the text after the closing quote.
func unquote(text string) (value, behind string, closed bool) {
	if text[0] == '\'' {
		return strings.Cut(text[1:], "'")
	}
	end := 1
	for ; end < len(text) && text[end] != '"'; end++ {
		if text[end] == '\\' {
			end++
		}
	}
	if end >= len(text) {
		return "", "", false
	}
	escapes := strings.NewReplacer(`\n`, "\n", `\t`, "\t", `\"`, `"`, `\\`, `\`, `\$`, `$`, "\\`", "`", "\\\n", "")
	return escapes.Replace(text[1:end]), text[end+1:], true
}
