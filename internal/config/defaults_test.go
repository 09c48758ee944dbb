package config

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// The file of defaults is what the contract says, has every key, and says the truth.
func TestDefaultsFile(t *testing.T) {
	contract, err := os.ReadFile("../../docs/contract.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(contract), "```toml\n"+defaults+"```") {
		t.Error("docs/contract.md, Configuration, has another block than defaults.toml: copy it")
	}
	var bare strings.Builder
	for line := range strings.Lines(DefaultsFile()) {
		if width := len([]rune(strings.TrimSuffix(line, "\n"))); width > 80 {
			t.Errorf("%d columns: %s", width, line)
		}
		if code, commented := strings.CutPrefix(line, "#"); commented && !strings.HasPrefix(code, " ") {
			bare.WriteString(code)
		} else if !commented && line != "\n" {
			t.Errorf("not commented out: %s", line)
		}
	}
	settings, failed := parse("defaults.toml", []byte(bare.String()))
	if len(failed) > 0 {
		t.Fatal(failed)
	}
	s := &start{host: newHost(t), flags: &Flags{}}
	set, unset := newDraft(s), newDraft(s)
	for _, s := range settings {
		set.accept(s)
	}
	if len(set.failures) > 0 {
		t.Error(together(set.failures))
	}
	shown := map[string]string{}
	for _, k := range keys(unset) {
		shown[k.name] = k.show()
	}
	examples := []string{"name", "command", "directory", "workers", "user", "group", "umask", "env_file", "preset", "stop_signal"}
	for _, k := range keys(set) {
		if _, there := set.origins[k.name]; !there {
			t.Errorf("%s is missing", k.name)
		}
		if got := k.show(); got != shown[k.name] && !slices.Contains(examples, k.name) {
			t.Errorf("%s: %q, and the default is %q", k.name, got, shown[k.name])
		}
	}
	for _, k := range listenKeys(new(listener)) {
		if len(set.listeners) != 1 || set.listeners[0].origins[k.name].text == nil {
			t.Errorf("listen.%s is missing", k.name)
		}
	}
}
