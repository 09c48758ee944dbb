package control

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
)

// Scale asks for another number of slots, as people write it: a number, a change
// ("+2", "-1"), or a share of the machine ("cpus", "cpus*2+1", "50%"). ParseScale
// makes it.
type Scale string

// Scaled answers POST /v1/scale.
type Scaled struct {
	From int `json:"from"`    // slots that were wanted before
	To   int `json:"workers"` // that are wanted now
}

// MaxWorkers is the most workers that an app may have: beyond it, a typing mistake is
// likelier than a machine.
const MaxWorkers = 1024

// Share is the number of slots that text, a share of a machine with cpus CPUs,
// means: "cpus", "cpus-1", "cpus*2+1", "50%". It is at least 1, and may be too many.
// ok is false when text is no share: then n is the number or the change that it is, or 0.
func Share(text string, cpus int) (n int, ok bool) {
	// A number or a change, a percentage, or CPUs with a factor and a change.
	form := regexp.MustCompile(strings.ReplaceAll(`^(?:([+-]?N)|(N)%|cpus(?:\*(N))?([+-]N)?)$`, "N", `0{0,4}[1-9][0-9]{0,4}`))
	m := form.FindStringSubmatch(text)
	if m == nil {
		return 0, false
	}
	number := func(digits string) int {
		n, _ := strconv.Atoi(digits) // "" is 0
		return n
	}
	switch {
	case m[1] != "":
		return number(m[1]), false
	case m[2] != "":
		return (cpus*number(m[2]) + 99) / 100, true
	}
	n = min(cpus, MaxWorkers)
	if m[3] != "" {
		n = cpus * number(m[3])
	}
	return max(1, n+number(m[4])), true
}

// ParseScale checks text. The error is an *Error, 400.
func ParseScale(text string) (Scale, error) {
	if n, share := Share(text, 1); n != 0 && (share || max(n, -n) <= MaxWorkers) {
		return Scale(text), nil
	}
	return "", noScale(text)
}

func noScale(text string) error {
	return &Error{http.StatusBadRequest, fmt.Sprintf("%.40q is no number of workers: use 1 to %d, +N, -N, cpus, cpus-1, cpus*2+1 or 50%%", text, MaxWorkers)}
}

// Workers is the number of slots that s asks for, where now are wanted and the
// machine has so many cpus. The error is an *Error, 400: there would be none, or
// too many.
func (s Scale) Workers(now, cpus int) (int, error) {
	n, _ := Share(string(s), cpus)
	if strings.IndexAny(string(s), "+-") == 0 {
		n += now
	}
	if n < 1 || n > MaxWorkers {
		return 0, &Error{http.StatusBadRequest, fmt.Sprintf("%s would be %d workers: an app has 1 to %d", s, n, MaxWorkers)}
	}
	return n, nil
}

// scaling is the body of POST /v1/scale: {"workers":4}, {"workers":"+2"}.
type scaling struct {
	Workers Scale `json:"workers"`
}

// UnmarshalJSON implements json.Unmarshaler. A number is never relative.
func (s *Scale) UnmarshalJSON(data []byte) (err error) {
	text := string(data)
	switch {
	case text == "null":
		return nil
	case text[0] == '-':
		return noScale(text)
	case text[0] == '"':
		_ = json.Unmarshal(data, &text) // package json has checked it
	}
	*s, err = ParseScale(text)
	return err
}
