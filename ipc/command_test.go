package ipc

import (
	"encoding/json"
	"strings"
	"testing"
)

// commandByMap is what command must find, the long way.
func commandByMap(line []byte) string {
	var fields map[string]json.RawMessage
	if json.Unmarshal(line, &fields) != nil {
		return ""
	}
	var cmd string
	if json.Unmarshal(fields["cmd"], &cmd) != nil || !strings.HasPrefix(cmd, "FORKD_") && !strings.HasPrefix(cmd, "NODE_") {
		return ""
	}
	return cmd
}

func commands() []string {
	return []string{
		`{"cmd":"FORKD_A"}`, ` { "cmd" : "NODE_B" , "x" : 1 } `, `{"\u0063md":"FORKD_\u0041"}`, `{"cmd":"FORKD_A","cmd":"mine"}`,
		`{"cmd":"mine","cmd":"FORKD_A"}`, `{"x":{"cmd":"FORKD_A"}}`, `{"x":["}",{"a":"]\"\\"}],"cmd":"FORKD_A"}`, `{"CMD":"FORKD_A"}`, `{"cmd":"FORKD_A","Cmd":1,"CMD":null}`, `{"Cmd":"FORKD_A","cMD":2,"cmd":3}`,
		`{}`, `[]`, `"cmd"`, `null`, `-1.5e3`, `{"cmd":null}`, `{"cmd":["FORKD_A"]}`, `{"a":"cmd","b":"FORKD_A"}`, `{"\"":1,"cmd":"FORKD_\\"}`,
		"{\"a\":1\t,\"cmd\":\r\"FORKD_A\"\t}", `{"a":[[],{}],"b":{},"cmd":"FORKD_A","c":true}`, `{"":"","cmd":"FORKD_A"}`,
	}
}

func TestCommand(t *testing.T) {
	for _, line := range commands() {
		if got, want := command([]byte(line)), commandByMap([]byte(line)); got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
	long := []byte(`{"a":[` + strings.Repeat(`{"cmd":"FORKD_A"},`, 1000) + `1],"cmd":"mine"}`)
	if n := testing.AllocsPerRun(10, func() { command(long) }); n > 12 { // not of each key
		t.Errorf("%v allocations for an application's message", n)
	}
}

func FuzzCommand(f *testing.F) {
	for _, line := range commands() {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		if !json.Valid(line) {
			return
		}
		if got, want := command(line), commandByMap(line); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	})
}
