package control

import (
	"errors"
	"strings"
	"testing"
)

func TestMessageCheck(t *testing.T) {
	for text, want := range map[string]string{
		`{ "n": [1, "é"] }`:                      `{"n":[1,"é"]}`,
		"\n-1\n":                                 `-1`,
		`{"cmd":"NODE_X","cmd":"mine"}`:          `{"cmd":"NODE_X","cmd":"mine"}`, // the last counts
		`{"CMD":"FORKD_READY"}`:                  `{"CMD":"FORKD_READY"}`,
		`{"cmd":["FORKD_READY"]}`:                `{"cmd":["FORKD_READY"]}`,
		`"` + strings.Repeat("x", 1<<20-2) + `"`: `"` + strings.Repeat("x", 1<<20-2) + `"`,
	} {
		m := Message{Message: []byte(text)}
		if err := m.Check(); err != nil || string(m.Message) != want {
			t.Errorf("%.40s: %.40s, %v", text, m.Message, err)
		}
	}
	for text, want := range map[string]Error{
		``:                                       {400, "cannot send the message: there is none"},
		`hello`:                                  {400, "cannot send the message: it is not JSON: invalid character"},
		`{}{}`:                                   {400, "cannot send the message: it is not JSON: "},
		"\"\xff\"":                               {400, "cannot send the message: it is not UTF-8"},
		`{"cmd":"FORKD_DRAIN"}`:                  {400, "cannot send the message: its cmd is forkd's own"},
		`{"cmd":"mine","cmd":"NODE_X"}`:          {400, "cannot send the message: its cmd is forkd's own"},
		`{"\u0063md":"FORKD_LATER","x":[{}]}`:    {400, "cannot send the message: its cmd is forkd's own"},
		`"` + strings.Repeat("x", 1<<20-1) + `"`: {413, "the message is larger than 1048576 bytes"},
	} {
		m := Message{Message: []byte(text)}
		refusal, ok := errors.AsType[*Error](m.Check())
		if !ok || refusal.Code != want.Code || !strings.HasPrefix(refusal.Text, want.Text) || string(m.Message) != text {
			t.Errorf("%.40s: %v; want %v", text, refusal, want)
		}
	}
}
