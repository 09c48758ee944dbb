package output

import (
	"bytes"
	"io"
	"log/slog"
	"testing"
)

// A line costs the master this much, from the pipe's bytes to the last writer, in a worker's
// read of 100 lines.
func BenchmarkLine(b *testing.B) {
	for name, to := range map[string]func(l *Log){
		"memory": func(*Log) {},
		"stdout": func(l *Log) { l.ForwardTo(io.Discard, "shop", false) },
		"files":  func(l *Log) { l.KeepIn(NewFiles(b.TempDir(), "shop", 10<<20, 2, slog.New(slog.DiscardHandler))) },
	} {
		b.Run(name, func(b *testing.B) {
			const lines = 100
			l, last := new(Log), new(Tail)
			to(l)
			c := &captured{header: Source{1, 1, 77, Stdout}.header(), shares: make([]share, len(l.writers)), dropping: make([]bool, len(l.writers))}
			text := bytes.Repeat([]byte("0123456789 xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n"), lines)
			b.SetBytes(int64(len(text) / lines))
			b.ReportAllocs()
			for i := 0; i < b.N; i += lines {
				last.add(text)
				l.add(c, text)
			}
			l.Close()
		})
	}
}
