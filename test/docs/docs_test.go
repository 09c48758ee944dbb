// Package docs_test runs what the documents tell people to type, under a real systemd on a
// private copy of this machine's file system (test/with-systemd).
//
// A fenced block `console` is typed, line by line, in one shell for each document: what
// begins with "$ " is a command, the rest what it prints. Numbers may differ, and "..."
// stands for any lines. A command ends with status 0, unless " # exit N" follows it. A
// block whose language is followed by a file name (```toml shop.toml) is written there
// first, relative to the shell's first directory.
package docs_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/forkd/forkd/test/machine"
)

// step is a command of a document, or a file.
type step struct {
	line    int // of the document
	command string
	exit    int
	want    []string
	file    string // a file to write in place of a command
	content string
}

var (
	fence  = regexp.MustCompile("^```([a-z]*) ?(.*)$")
	status = regexp.MustCompile(` # exit ([0-9]+)$`)
	number = regexp.MustCompile(`[0-9][0-9.,:TZ+-]*`)
	figure = regexp.MustCompile(`^(-|(N(ms|s|m|h|d|%|k|M|B|[KMG]iB))+)$`)
	marker = regexp.MustCompile(`^@@(\d+) exit (\d+)$`)
)

// parse returns the steps of a document.
func parse(text string) (steps []step, err error) {
	language, name := "", ""
	inside := false
	for i, line := range strings.Split(text, "\n") {
		m := fence.FindStringSubmatch(line)
		switch {
		case m != nil && !inside:
			inside, language, name = true, m[1], m[2]
			if name != "" {
				steps = append(steps, step{line: i + 1, file: name})
			}
		case line == "```":
			inside = false
		case !inside:
		case name != "":
			steps[len(steps)-1].content += line + "\n"
		case language != "console":
		case strings.HasPrefix(line, "$ "):
			s := step{line: i + 1, command: strings.TrimPrefix(line, "$ ")}
			if m := status.FindStringSubmatch(s.command); m != nil {
				s.exit, _ = strconv.Atoi(m[1])
				s.command = strings.TrimSuffix(s.command, m[0])
			}
			steps = append(steps, s)
		case len(steps) == 0 || steps[len(steps)-1].command == "":
			return nil, fmt.Errorf("line %d: output of no command", i+1)
		default:
			last := &steps[len(steps)-1]
			last.want = append(last.want, line)
		}
	}
	return steps, nil
}

// script is the document as a shell script that says how each step ended.
func script(steps []step) string {
	var text strings.Builder
	text.WriteString("exec 2>&1\nexport PAGER=cat SYSTEMD_PAGER=cat COLUMNS=80\n")
	for i, s := range steps {
		if s.file != "" {
			fmt.Fprintf(&text, "mkdir -p \"$(dirname '%s')\"\ncat >'%s' <<'@@END'\n%s@@END\n", s.file, s.file, s.content)
		} else {
			text.WriteString(s.command + "\n")
		}
		fmt.Fprintf(&text, "echo \"@@%d exit $?\"\n", i)
	}
	return text.String()
}

// same reports whether what was printed is what the document shows.
func same(want, got []string) bool {
	if len(want) == 0 {
		return len(got) == 0
	}
	if want[0] == "..." {
		for n := range len(got) + 1 {
			if same(want[1:], got[n:]) {
				return true
			}
		}
		return false
	}
	return len(got) > 0 && plain(want[0]) == plain(got[0]) && same(want[1:], got[1:])
}

// plain is a line without the widths of columns, and with N for each number, with or
// without a unit, and for what is not known.
func plain(line string) string {
	words := strings.Fields(number.ReplaceAllString(line, "N"))
	for i, word := range words {
		if figure.MatchString(word) {
			words[i] = "N"
		}
	}
	return strings.Join(words, " ")
}

// judge compares what a script has printed with its document.
func judge(t *testing.T, document string, steps []step, output string) {
	t.Helper()
	var printed []string
	next := 0
	for line := range strings.Lines(output) {
		line = strings.TrimRight(line, "\r\n")
		m := marker.FindStringSubmatch(line)
		if m == nil {
			printed = append(printed, line)
			continue
		}
		s := steps[next]
		if code, _ := strconv.Atoi(m[2]); code != s.exit {
			t.Errorf("%s:%d: %s: exit status %d, want %d\n%s", document, s.line, s.command, code, s.exit, strings.Join(printed, "\n"))
		} else if len(s.want) > 0 && !same(s.want, printed) {
			t.Errorf("%s:%d: %s: prints\n%s\nand the document says\n%s", document, s.line, s.command, strings.Join(printed, "\n"), strings.Join(s.want, "\n"))
		}
		printed = nil
		next++
	}
	if next != len(steps) {
		t.Errorf("%s: %d of %d steps ran; the last printed\n%s", document, next, len(steps), strings.Join(printed, "\n"))
	}
}

// documents are those whose console blocks are typed.
func documents(t *testing.T) map[string][]step {
	t.Helper()
	found := map[string][]step{}
	names, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(names, "../../README.md") {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		steps, err := parse(string(text))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if strings.Contains(string(text), "```console") {
			found[filepath.Base(name)] = steps
		}
	}
	return found
}

func TestDocuments(t *testing.T) {
	all := documents(t)
	if len(all) == 0 {
		t.Fatal("no document has a console block")
	}
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "forkd"), "../../cmd/forkd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for document, steps := range all {
		if err := os.WriteFile(filepath.Join(dir, document+".sh"), []byte(script(steps)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{"WITH_SYSTEMD_SHARE=" + dir, "FORKD_RUNTIME_DIR=", "FORKD_STATE_DIR=", "XDG_RUNTIME_DIR=", "XDG_STATE_HOME="}
	said := machine.Run(t, env, "testdata/type.sh", dir)
	for document, steps := range all {
		output, err := os.ReadFile(filepath.Join(dir, document+".out"))
		if err != nil {
			t.Fatalf("%s: %v\n%s", document, err, said)
		}
		judge(t, document, steps, string(output))
	}
}

func TestSame(t *testing.T) {
	for _, c := range []struct {
		want, got string
		same      bool
	}{
		{"a 1", "a   27", true},
		{"a 1", "b 1", false},
		{"...", "a\nb", true},
		{"a\n...\nc", "a\nc", true},
		{"a\n...\nc", "a\nb\nd", false},
		{"a 0s 5% - 18MiB", "a 1m  0%  7  2GiB", true},
		{"after 5s", "after 1m2s", true},
		{"12:00:01 up", "2026-11-28T09:00:00Z up", true},
	} {
		if got := same(strings.Split(c.want, "\n"), strings.Split(c.got, "\n")); got != c.same {
			t.Errorf("%q, %q: %t", c.want, c.got, got)
		}
	}
}
