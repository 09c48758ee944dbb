package systemd

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

// forever is systemd's "infinity".
const forever = time.Duration(math.MaxInt64)

// parseSpan parses a time of systemctl show ("1min 30s", "infinity"; systemd.time(7)).
func parseSpan(text string) (time.Duration, error) {
	if text == "infinity" {
		return forever, nil
	}
	bad := errors.New("not a time span: " + quote(text))
	var sum float64
	words := strings.Fields(text)
	for _, word := range words {
		if word == "0" {
			continue
		}
		at := strings.LastIndexAny(word, "0123456789") + 1
		number, err := strconv.ParseFloat(word[:at], 64)
		unit := spanUnit(word[at:])
		if err != nil || unit == 0 || number < 0 {
			return 0, bad
		}
		sum += number * float64(unit)
	}
	switch {
	case len(words) == 0:
		return 0, bad
	case sum >= float64(forever):
		return forever, nil
	}
	return time.Duration(sum), nil
}

// spanUnit is one of the units of FORMAT_TIMESPAN in systemd's time-util.c; 0: unknown.
func spanUnit(name string) time.Duration {
	const day = 24 * time.Hour
	return map[string]time.Duration{
		"us":    time.Microsecond,
		"ms":    time.Millisecond,
		"s":     time.Second,
		"min":   time.Minute,
		"h":     time.Hour,
		"d":     day,
		"w":     7 * day,
		"month": 2629800 * time.Second,
		"y":     31557600 * time.Second,
	}[name]
}
