package fleet

import (
	"strings"
	"testing"
)

func TestCheckApp(t *testing.T) {
	for name, good := range map[string]bool{"shop": true, "a.b_c-d": true, "a:b": false, "": false, "a\n": false, strings.Repeat("x", 49): false} {
		if err := CheckApp(name); (err == nil) != good {
			t.Errorf("app %q: %v", name, err)
		}
	}
}
