package ipc

import (
	"bytes"
	"encoding/json"
	"strings"
)

// command is the reserved cmd of a line that is valid JSON, "" where it has
// none. Of several the last counts, and the key is exact: encoding/json would
// take "CMD" for it too. It allocates next to nothing for an application's message,
// however many keys that has: the master asks this of every line.
func command(line []byte) string {
	i := skipSpace(line, 0)
	if line[i] != '{' {
		return ""
	}
	var value []byte
	for i++; ; {
		switch i = skipSpace(line, i); line[i] {
		case '}':
			return reserved(value)
		case ',':
			i++
			continue
		}
		end := stringEnd(line, i)
		key := line[i:end]
		i = skipSpace(line, skipSpace(line, end)+1) // over the colon
		end = valueEnd(line, i)
		if isCmd(key) {
			value = line[i:end]
		}
		i = end
	}
}

// isCmd reports whether a key, with its quotes, is "cmd", however it is written.
func isCmd(key []byte) bool {
	if bytes.IndexByte(key, '\\') < 0 {
		return string(key) == `"cmd"`
	}
	var text string
	return json.Unmarshal(key, &text) == nil && text == "cmd"
}

// reserved is the text of a value, "" where it is not one of forkd's or Node's.
func reserved(value []byte) string {
	var cmd string
	if len(value) == 0 || value[0] != '"' || json.Unmarshal(value, &cmd) != nil {
		return "" // none, or not a string: the application's own
	}
	if strings.HasPrefix(cmd, "FORKD_") || strings.HasPrefix(cmd, "NODE_") {
		return cmd
	}
	return ""
}

// The following find their way through valid JSON, where every string, object
// and array has its end.

func skipSpace(line []byte, i int) int {
	for i < len(line) && (line[i] == ' ' || line[i] == '\t' || line[i] == '\r' || line[i] == '\n') {
		i++
	}
	return i
}

// stringEnd is where the string that begins at i ends.
func stringEnd(line []byte, i int) int {
	for i++; line[i] != '"'; i++ {
		if line[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// valueEnd is where the value that begins at i, within an object, ends.
func valueEnd(line []byte, i int) int {
	for depth := 0; ; {
		switch line[i] {
		case '"':
			i = stringEnd(line, i)
		case '{', '[':
			depth++
			i++
		case '}', ']':
			depth--
			i++
		default:
			i++
		}
		if depth == 0 && (line[i] == ',' || line[i] == '}') {
			return i
		}
	}
}
