package capture

import (
	"fmt"
	"testing"
)

func TestBindIsAnswered(t *testing.T) {
	c := children(t)
	fd, at := listener(t, "127.0.0.1:0")
	w := start(t, c, program(t, "one", at.String()), give(t, fd))
	if got := w.line(t); got != "<nil> <nil> <nil>" {
		t.Error(got)
	}
	if got := w.line(t); got != fmt.Sprint(at.Port(), " <nil>") {
		t.Error(got)
	}
	for _, c := range w.seen() {
		t.Logf("%+v", c)
	}
}
