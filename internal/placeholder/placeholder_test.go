package placeholder

import (
	"strings"
	"testing"
)

func TestPlaceholders(t *testing.T) {
	s := NewScope(2, 7)
	s.Add("http", "tcp", 3, 8080)
	s.Add("admin", "tcp6", 4, 9090)
	s.Add("local", "unix", 5, 0)
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
		if got, err := s.Expand(text); err != nil || got != want {
			t.Errorf("%q: got %q, %v; want %q", text, got, err, want)
		}
	}
}

func TestPlaceholderErrors(t *testing.T) {
	type listener struct{ name, network string }
	two := []listener{{"http", "tcp"}, {"admin", "tcp"}}
	local := listener{"local", "unix"}
	check := func(text string, listeners []listener) error {
		s := NewScope(0, 0)
		for _, l := range listeners {
			s.Add(l.name, l.network, 0, 0)
		}
		_, err := s.Expand(text)
		return err
	}
	for _, c := range []struct {
		text      string
		listeners []listener
		want      string
	}{
		{"{fdd}", two, "unknown placeholder {fdd}: there are {fd}, {fd:NAME}, {port}, {port:NAME}, {slot}, {generation}; write {{ for a brace"},
		{"{slot:http}", two, "unknown placeholder {slot:http}: there are {fd}, {fd:NAME}, {port}, {port:NAME}, {slot}, {generation}; write {{ for a brace"},
		{"{fd:web}", two, "{fd:web} names no listener"},
		{"{port}", nil, "{port} needs a listener, and there is none"},
		{"{port:local}", []listener{{"http", "tcp"}, local}, `{port:local}: listener "local" is a unix socket, and has no port`},
		{"{port}", []listener{local}, `{port}: listener "local" is a unix socket, and has no port`},
		{`{"a":1`, two, `"{"a":1" has no closing brace: write {{ for a brace`},
	} {
		err := check(c.text, c.listeners)
		if err == nil || err.Error() != c.want {
			t.Errorf("%q: got %v, want %q", c.text, err, c.want)
		}
	}
	if err := check("{fd:admin} {slot}", two); err != nil {
		t.Error(err)
	}
}

// {port} is what PORT is: the first listener's that has one.
func TestPortBesideUnix(t *testing.T) {
	s := NewScope(0, 1)
	s.Add("local", "unix", 3, 0)
	s.Add("http", "tcp", 4, 8080)
	if got, err := s.Expand("{fd} {port}"); err != nil || got != "3 8080" {
		t.Errorf("got %q, %v", got, err)
	}
}

// What is expanded holds nothing but what was written and numbers, and HasFD knows
// whether a descriptor is among them.
func FuzzPlaceholder(f *testing.F) {
	for _, seed := range []string{
		"", "{fd}", "x{fd:http}y", "{port:local}", "{{fd}", "{{{slot}}}", "{generation", "}{", "{f{{d}", "{fd:{{}", "{}", "{:}", "{fd:}", "\x00{port}\xff",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		expand := func(fd int) (string, error) {
			s := NewScope(7, 7)
			s.Add("local", "unix", fd, 0)
			s.Add("http", "tcp", fd, 7)
			return s.Expand(text)
		}
		got, err := expand(7)
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
		if again, err := NewScope(0, 0).Expand(escaped); err != nil || again != got {
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
