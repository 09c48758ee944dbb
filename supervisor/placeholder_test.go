package supervisor

import (
	"strings"
	"testing"
)

func TestPlaceholders(t *testing.T) {
	s := newScope(2, 7)
	s.add("http", "tcp", 3, 8080)
	s.add("admin", "tcp6", 4, 9090)
	s.add("local", "unix", 5, 0)
	for text, want := range map[string]string{
		"--fd={fd}":                "--fd=3",
		"{fd:admin};":              "4;",
		"{fd:local}":               "5",
		"0.0.0.0:{port}":           "0.0.0.0:8080",
		"{port:admin}":             "9090",
		"shop-{slot}-{generation}": "shop-2-7",
		`{{"a": {{{slot}}}`:        `{"a": {2}}`,
		"no braces }":              "no braces }",
		"":                         "",
	} {
		if got, err := s.expand(text); err != nil || got != want {
			t.Errorf("%q: got %q, %v; want %q", text, got, err, want)
		}
	}
}

func TestPlaceholderErrors(t *testing.T) {
	two := []Listener{{Name: "http"}, {Name: "admin"}}
	local := Listener{Name: "local", Network: "unix"}
	for _, c := range []struct {
		text      string
		listeners []Listener
		want      string
	}{
		{"{fdd}", two, "unknown placeholder {fdd}: there are {fd}, {fd:NAME}, {port}, {port:NAME}, {slot}, {generation}; write {{ for a brace"},
		{"{slot:http}", two, "unknown placeholder {slot:http}: there are {fd}, {fd:NAME}, {port}, {port:NAME}, {slot}, {generation}; write {{ for a brace"},
		{"{fd:web}", two, "{fd:web} names no listener"},
		{"{port}", nil, "{port} needs a listener, and there is none"},
		{"{port:local}", []Listener{{Name: "http"}, local}, `{port:local}: listener "local" is a unix socket, and has no port`},
		{"{port}", []Listener{local}, `{port}: listener "local" is a unix socket, and has no port`},
		{`{"a":1`, two, `"{"a":1" has no closing brace: write {{ for a brace`},
	} {
		err := CheckPlaceholders(c.text, c.listeners)
		if err == nil || err.Error() != c.want {
			t.Errorf("%q: got %v, want %q", c.text, err, c.want)
		}
	}
	if err := CheckPlaceholders("{fd:admin} {slot}", two); err != nil {
		t.Error(err)
	}
}

// {port} is what PORT is: the first listener's that has one.
func TestPortBesideUnix(t *testing.T) {
	s := newScope(0, 1)
	s.add("local", "unix", 3, 0)
	s.add("http", "tcp", 4, 8080)
	if got, err := s.expand("{fd} {port}"); err != nil || got != "3 8080" {
		t.Errorf("got %q, %v", got, err)
	}
}

// A text that CheckPlaceholders finds good is expanded without an error, nothing
// else stands in it than was written, and HasFD knows whether a descriptor does.
func FuzzPlaceholder(f *testing.F) {
	for _, seed := range []string{
		"", "{fd}", "x{fd:http}y", "{port:local}", "{{fd}", "{{{slot}}}", "{generation", "}{", "{f{{d}", "{fd:{{}", "{}", "{:}", "{fd:}", "\x00{port}\xff",
	} {
		f.Add(seed)
	}
	listeners := []Listener{{Name: "local", Network: "unix"}, {Name: "http", Network: "tcp"}}
	f.Fuzz(func(t *testing.T, text string) {
		expand := func(fd int) (string, error) {
			s := newScope(7, 7)
			s.add("local", "unix", fd, 0)
			s.add("http", "tcp", fd, 7)
			return s.expand(text)
		}
		got, err := expand(7)
		if checked := CheckPlaceholders(text, listeners); (checked == nil) != (err == nil) {
			t.Fatalf("checked: %v, expanded: %v", checked, err)
		}
		if err != nil {
			return
		}
		if len(got) > len(text) {
			t.Errorf("%q grew to %q", text, got)
		}
		if other, _ := expand(8); (other != got) != HasFD(text) {
			t.Errorf("%q: HasFD is %v; got %q and %q", text, HasFD(text), got, other)
		}
		escaped := strings.ReplaceAll(got, "{", "{{")
		if again, err := newScope(0, 0).expand(escaped); err != nil || again != got {
			t.Errorf("%q came back as %q, %v", got, again, err)
		}
	})
}

func TestHasFD(t *testing.T) {
	for text, want := range map[string]bool{"{fd}": true, "x{fd:http}": true, "{{fd}": false, "{port}": false} {
		if HasFD(text) != want {
			t.Errorf("HasFD(%q) is not %v", text, want)
		}
	}
}
