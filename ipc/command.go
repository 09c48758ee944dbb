package ipc

import (
	"bytes"
	"encoding/json"
	"strings"
)

// command returns the reserved cmd of a line, which is valid JSON; "" if it has none.
// The last of several counts, and the key is exact: encoding/json would accept "CMD"
// too. The master calls it for every line, so it allocates next to nothing for an
// application's message, however many keys that has.
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

// isCmd reports whether a key, with its quotes, is "cmd", with or without escapes.
func isCmd(key []byte) bool {
	if bytes.IndexByte(key, '\\') < 0 {
		return string(key) == `"cmd"`
	}
	var text string
	return json.Unmarshal(key, &text) == nil && text == "cmd"
}

// reserved returns the text of a value, "" if it is not one of forkd's or Node's.
func reserved(value []byte) string {
	var cmd string
	if len(value) == 0 || value[0] != '"' || json.Unmarshal(value, &cmd) != nil {
		return ""
	}
	if strings.HasPrefix(cmd, "FORKD_") || strings.HasPrefix(cmd, "NODE_") {
		return cmd
	}
	return ""
}

// The following work on valid JSON, in which every string, object and array has an end.

func skipSpace(line []byte, i int) int {
	for i < len(line) && (line[i] == ' ' || line[i] == '\t' || line[i] == '\r' || line[i] == '\n') {
		i++
	}
	return i
}

// stringEnd returns the end of the string that begins at i.
func stringEnd(line []byte, i int) int {
	for i++; line[i] != '"'; i++ {
		if line[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// valueEnd returns the end of the value that begins at i, within an object.
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
