package control

import (
	"strings"
	"testing"
)

func TestValidName(t *testing.T) {
	for _, name := range []string{"a", "0", "Z", "a.b_c-d", "9-", "a..", strings.Repeat("x", MaxName)} {
		if !ValidName(name) {
			t.Errorf("%q is refused", name)
		}
	}
	for _, name := range []string{"", ".", "..", "-a", "_a", ".a", "a/b", "a b", "a\n", "é", "a\xff", "a\x00", strings.Repeat("x", MaxName+1)} {
		if ValidName(name) {
			t.Errorf("%q is taken", name)
		}
	}
}
