package output

import (
	"bytes"
	"io"
)

// A forward writes the workers' lines to one of the master's outputs, each as
// "APP.SLOT | TEXT".
type forward struct {
	to     io.Writer
	prefix string // "APP."
	text   []byte
}

func newForward(to io.Writer, app string) *forward {
	return &forward{to: to, prefix: app + "."}
}

// Write takes records.
func (f *forward) Write(records []byte) (int, error) {
	text := f.text[:0]
	for line := range bytes.Lines(records) {
		r, ok := cutRecord(line)
		switch {
		case !ok:
		case r.ofMaster(): // lines were dropped
			text = append(append(text, "forkd: "...), r.text...)
		default:
			text = append(append(append(append(text, f.prefix...), r.slot...), " | "...), r.text...)
		}
		if len(text) >= maxBatch {
			_, _ = f.to.Write(text)
			text = text[:0]
		}
	}
	if f.text = text; len(text) > 0 {
		_, _ = f.to.Write(text)
	}
	return len(records), nil
}
