package safefile

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// A long line hides none that follow.
func TestLongLinesAreCut(t *testing.T) {
	for text, want := range map[string]string{
		"1234567\n12345678\n1\n":               "1234567 12345678 1",
		"\n123456789\n1":                       "12345678 1",
		strings.Repeat("x", 40) + "\n1\n":      "xxxxxxxx 1",
		"1\n" + strings.Repeat("x", 40):        "1 xxxxxxxx",
		strings.Repeat("123456789\n", 3) + "1": "12345678 12345678 12345678 1",
	} {
		for _, from := range []io.Reader{strings.NewReader(text), iotest.OneByteReader(strings.NewReader(text)), iotest.DataErrReader(strings.NewReader(text))} {
			var got strings.Builder
			scan := ScanLines(from, 8)
			for scan.Scan() {
				fmt.Fprintln(&got, scan.Text())
			}
			if got := strings.Join(strings.Fields(got.String()), " "); got != want || scan.Err() != nil {
				t.Errorf("%T %q: %q, %v; want %q", from, text, got, scan.Err(), want)
			}
		}
	}
}
