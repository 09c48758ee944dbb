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

// ParseScale checks text. The error is an *Error, 400.
func ParseScale(text string) (Scale, error) {
	if _, share := Share(text, 1); share {
		return Scale(text), nil
	}
	number := strings.TrimLeft(text, "+-")
	n, change := positive(number), len(text)-len(number)
	if n == 0 || n > MaxWorkers || change > 1 || change == 1 && n == MaxWorkers {
		return "", noScale(text)
	}
	return Scale(text), nil
}

func noScale(text string) error {
	const most = 40
	if len(text) > most {
		text = text[:most] + "..."
	}
	return &Error{http.StatusBadRequest, fmt.Sprintf("%q is no number of workers: use 1 to %d, +N, -N, cpus, cpus-1, cpus*2+1 or 50%%", text, MaxWorkers)}
}

// Share is the number of slots that text, a share of a machine with cpus CPUs,
// means: "cpus", "cpus-1", "cpus*2+1", "50%". It is at least 1, and may be too many.
// ok is false when text is no share.
func Share(text string, cpus int) (n int, ok bool) {
	if percent, cut := strings.CutSuffix(text, "%"); cut {
		share := positive(percent)
		return (cpus*share + 99) / 100, share > 0
	}
	m := regexp.MustCompile(`^cpus(\*[0-9]+)?([+-][0-9]+)?$`).FindStringSubmatch(text)
	if m == nil {
		return 0, false
	}
	n = min(cpus, MaxWorkers)
	if m[1] != "" {
		n = cpus * positive(m[1][1:])
	}
	if m[2] == "" || n == 0 {
		return n, n > 0
	}
	change := positive(m[2][1:])
	if m[2][0] == '-' {
		return max(1, n-change), change > 0
	}
	return n + change, change > 0
}

// positive is a number in up to five decimal digits, 0 for anything else.
func positive(digits string) int {
	if len(digits) == 0 || len(digits) > 5 || strings.Trim(digits, "0123456789") != "" {
		return 0
	}
	n, _ := strconv.Atoi(digits) // only digits, and few
	return n
}

// Workers is the number of slots that s asks for, where now are wanted and the
// machine has so many cpus. The error is an *Error, 400: there would be none, or
// too many.
func (s Scale) Workers(now, cpus int) (int, error) {
	text := string(s)
	n, share := Share(text, cpus)
	switch {
	case share:
	case strings.HasPrefix(text, "+"):
		n = now + positive(text[1:])
	case strings.HasPrefix(text, "-"):
		n = now - positive(text[1:])
	default:
		n = positive(text)
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
	case text[0] != '"' && positive(text) == 0:
		return noScale(text)
	case text[0] == '"':
		if err := json.Unmarshal(data, &text); err != nil {
			return noScale(text)
		}
	}
	*s, err = ParseScale(text)
	return err
}
