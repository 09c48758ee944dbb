package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What is written means what the flags meant, and no file is replaced.
func TestWrite(t *testing.T) {
	h := newHost(t)
	h.home = filepath.Join(t.TempDir(), "forkd")
	h.uid, h.gid = 1000, 1000
	const obeyed = "\x1b\x7f\u009b\u202e\U000e0001" // by a terminal
	command := []string{"server", "--port", "{port}", `a "b" \ <c>`}
	typedWords := []string{
		"--listen=8080", "--listen", "tcp4://127.0.0.1:8081", "--balance=source", "--workers=3", "--umask=0027",
		"--drain-timeout=5s", "--ready-timeout=60s", "--env=KEY=a=b", "--env", "OTHER=\"\n" + obeyed,
	}
	path, err := h.write(typedFlags(t, typedWords...), "shop", command)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	flagged, err := h.load(typedFlags(t, typedWords...), "shop", command)
	if err == nil {
		_, err = h.load(new(Flags), "shop", nil)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	filed, err := h.load(new(Flags), "shop", nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]any{flagged.Command, flagged.Listeners, flagged.Workers, flagged.Umask, flagged.Drain, flagged.Ready, flagged.Env, flagged.Directory},
		[]any{filed.Command, filed.Listeners, filed.Workers, filed.Umask, filed.Drain, filed.Ready, filed.Env, filed.Directory}); diff != "" {
		t.Errorf("%s\n%s", diff, text)
	}
	if strings.ContainsAny(string(text), obeyed) {
		t.Errorf("a terminal obeys %q", text)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := h.write(typedFlags(t, typedWords...), "shop", command); err == nil || !strings.Contains(err.Error(), "there is a file") {
		t.Errorf("twice: %v", err)
	}
	if _, err := h.write(typedFlags(t, "--workers=many"), "other", []string{"server"}); err == nil {
		t.Error("a bad number is written")
	}
	if _, err := os.Stat(filepath.Join(h.home, "other.toml")); !os.IsNotExist(err) {
		t.Error("a bad file is left")
	}
}

// Args gives the flags again.
func TestArgs(t *testing.T) {
	words := []string{"--config=x.toml", "--workers=3", "--no-fallback=true", "--drain-timeout=5s", "--listen=8080", "--listen=8081", "--env=A=1"}
	got := typedFlags(t, words...).Args()
	if diff := cmp.Diff(words, got) + cmp.Diff(words, typedFlags(t, got...).Args()); diff != "" {
		t.Error(diff)
	}
}

// Apps finds files as Load does: those of the system first.
func TestApps(t *testing.T) {
	h := newHost(t)
	for _, path := range []string{h.home + "/shop.toml", h.home + "/blog.toml", h.etc + "/shop.toml", h.etc + "/notes.txt", h.etc + "/-x.toml"} {
		write(t, path, "")
	}
	if diff := cmp.Diff([]App{{"shop", h.etc + "/shop.toml"}, {"blog", h.home + "/blog.toml"}}, h.apps()); diff != "" {
		t.Error(diff)
	}
}
