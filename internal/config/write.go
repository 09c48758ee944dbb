package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"github.com/forkd/forkd/internal/control"
)

// Args returns the flags as words of a command line that gives the same.
func (f *Flags) Args() (words []string) {
	if f.file != "" {
		words = append(words, "--config="+f.file)
	}
	for _, k := range append(flagKeys(new(draft)), key{name: "listen"}, key{name: "env"}) {
		for _, v := range f.given[k.name] {
			text := v.text
			if negated(k) {
				text = strconv.FormatBool(text == "false")
			}
			words = append(words, v.at.label+"="+text)
		}
	}
	return words
}

// FromStdin reports whether the settings are read from standard input.
func (f *Flags) FromStdin() bool { return f.file == standardInput }

// Write writes the settings of flags and command to the file in which Load finds them for
// the app: /etc/forkd/APP.toml of root, else ~/.config/forkd/APP.toml. It replaces none.
func Write(f *Flags, app string, command []string) (path string, err error) {
	h, err := thisHost()
	if err != nil {
		return "", err
	}
	return h.write(f, app, command)
}

func (h host) write(f *Flags, app string, command []string) (path string, err error) {
	if !control.ValidName(app) {
		return "", &Error{Text: fmt.Sprintf("%q is not the name of an app: %s", app, control.NameRule)}
	}
	if f.file != "" {
		return "", &Error{Text: "the settings are in a file already: copy " + f.file}
	}
	dir := h.etc
	if h.uid != 0 {
		dir = h.home
	}
	if dir == "" {
		return "", &Error{Text: "cannot write a file without a home directory: set HOME"}
	}
	path = filepath.Join(dir, app+".toml")
	text := h.document(f, command)
	written := &start{host: h, file: path, path: path, stdin: []byte(text), flags: new(Flags), app: app}
	if _, err := written.load(""); err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("cannot write %s: %w", path, cause(err))
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) // env may hold secrets
	if errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("there is a file %s already: start it by its name, or remove it", path)
	}
	if err != nil {
		return "", fmt.Errorf("cannot write %s: %w", path, cause(err))
	}
	_, err = file.WriteString(text)
	if err = errors.Join(err, file.Close()); err != nil {
		_ = os.Remove(path)
		return "", fmt.Errorf("cannot write %s: %w", path, cause(err))
	}
	return path, nil
}

// document is the settings as TOML. Paths are the current directory's.
func (h host) document(f *Flags, command []string) string {
	var text strings.Builder
	quoted := make([]string, len(command))
	for i, word := range command {
		quoted[i] = BasicString(word)
	}
	fmt.Fprintf(&text, "command = [%s]\n", strings.Join(quoted, ", "))
	if len(f.given["directory"]) == 0 {
		fmt.Fprintf(&text, "directory = %s\n", BasicString(h.directory))
	}
	last := ""
	for _, k := range flagKeys(new(draft)) {
		for _, v := range f.given[k.name] {
			table, name := split(k.name)
			if name == "balance" { // of the listeners
				continue
			}
			if table != last {
				fmt.Fprintf(&text, "\n[%s]\n", table)
				last = table
			}
			fmt.Fprintf(&text, "%s = %s\n", name, bare(v.text))
		}
	}
	for _, v := range f.given["listen"] {
		fmt.Fprintf(&text, "\n[[listen]]\naddress = %s\n", bare(v.text))
		for _, balance := range f.given["balance"] {
			fmt.Fprintf(&text, "balance = %s\n", bare(balance.text))
		}
	}
	if len(f.given["env"]) > 0 {
		text.WriteString("\n[env]\n")
	}
	for _, v := range f.given["env"] {
		name, value, _ := strings.Cut(v.text, "=")
		fmt.Fprintf(&text, "%s = %s\n", BasicString(name), BasicString(value))
	}
	return text.String()
}

// bare is a number or a boolean of TOML as it is, anything else a string.
func bare(text string) string {
	if regexp.MustCompile(`^(true|false|0|-?[1-9][0-9]*)$`).MatchString(text) {
		return text
	}
	return BasicString(text)
}

// BasicString is a basic string of TOML, which has JSON's escapes, without a character that
// a terminal obeys.
func BasicString(text string) string {
	var out, safe strings.Builder
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(text) // of a string it does not fail
	for _, r := range strings.TrimSuffix(out.String(), "\n") {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
			fmt.Fprintf(&safe, `\U%08x`, r)
		} else {
			safe.WriteRune(r)
		}
	}
	return safe.String()
}
