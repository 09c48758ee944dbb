package supervisor

import "testing"

func TestPlaceholders(t *testing.T) {
	s := scope{
		fds:   map[string]int{"http": 3, "admin": 4},
		ports: map[string]int{"http": 8080, "admin": 9090},
		first: "http", slot: 2, generation: 7,
	}
	for text, want := range map[string]string{
		"--fd={fd}":                "--fd=3",
		"{fd:admin};":              "4;",
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
	for _, c := range []struct {
		text      string
		listeners []Listener
		want      string
	}{
		{"{fdd}", two, "unknown placeholder {fdd}: there are {fd}, {fd:NAME}, {port}, {port:NAME}, {slot}, {generation}; write {{ for a brace"},
		{"{slot:http}", two, "unknown placeholder {slot:http}: there are {fd}, {fd:NAME}, {port}, {port:NAME}, {slot}, {generation}; write {{ for a brace"},
		{"{fd:web}", two, "{fd:web} names no listener"},
		{"{port}", nil, "{port} needs a listener, and there is none"},
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

func TestHasFD(t *testing.T) {
	for text, want := range map[string]bool{"{fd}": true, "x{fd:http}": true, "{{fd}": false, "{port}": false} {
		if HasFD(text) != want {
			t.Errorf("HasFD(%q) is not %v", text, want)
		}
	}
}
