package safefile

import (
	"bufio"
	"io"
)

// ScanLines reads lines, and cuts those of more than most bytes, such as the zeros that a
// power cut may leave: the rest of one is some empty lines.
func ScanLines(from io.Reader, most int) *bufio.Scanner {
	scan, within := bufio.NewScanner(from), false
	scan.Buffer(nil, most+1)
	scan.Split(func(data []byte, atEOF bool) (advance int, line []byte, err error) {
		advance, line, err = bufio.ScanLines(data, atEOF)
		long := len(line) > most || advance == 0 && len(data) > most
		if long {
			advance, line = most, data[:most]
		}
		if within && advance > 0 {
			line = data[:0]
		}
		within = long || within && advance == 0
		return advance, line, err
	})
	return scan
}
