package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// unknown stands for a figure that is not known.
const unknown = "-"

// age is a time span as people say it: "12s", "5m", "3h", "2d".
func age(d time.Duration) string {
	switch {
	case d < 0:
		return "0s" // a clock was set back
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	default:
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	}
}

// clock is a time as people say it: of the day, with the day unless it is today.
func clock(at, now time.Time) string {
	at = at.In(now.Location())
	if at.YearDay() == now.YearDay() && at.Year() == now.Year() {
		return at.Format(time.TimeOnly)
	}
	return at.Format(time.DateTime)
}

// brief is a duration with tenths below 10 s: "0.3s", "12s".
func brief(d time.Duration) string {
	if d = max(d, 0); d < 10*time.Second {
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	return age(d)
}

// until is "in 12s", or "now".
func until(d time.Duration) string {
	if d < 50*time.Millisecond {
		return "now"
	}
	return "in " + brief(d)
}

// known is a number in full, unknown for 0.
func known(n int) string {
	if n == 0 {
		return unknown
	}
	return strconv.Itoa(n)
}

// figure formats n, unless it is not known.
func figure[T any](n *T, format func(T) string) string {
	if n == nil {
		return unknown
	}
	return format(*n)
}

func number[T int | int64](n *T) string {
	return figure(n, func(n T) string { return strconv.FormatInt(int64(n), 10) })
}

// count is a number of things in at most 5 characters.
func count(n *int64) string {
	return figure(n, func(n int64) string { return short(float64(n), 1) })
}

func rate(r *float64) string {
	return figure(r, func(r float64) string { return short(r, 10) })
}

// percent is a share of one core.
func percent(p *float64) string {
	return figure(p, func(p float64) string { return decimal(p, 10) + "%" })
}

// share is a percentage in at most 5 characters.
func share(p *float64) string {
	return figure(p, func(p float64) string { return short(min(p, 999e3), 10) + "%" })
}

// size is a number of bytes in at most 7 characters.
func size(bytes *int64) string {
	return figure(bytes, func(bytes int64) string {
		value := float64(bytes)
		for _, unit := range []string{"B", "KiB", "MiB", "GiB"} {
			if value < 999.5 {
				return decimal(value, 100) + unit
			}
			value /= 1024
		}
		return decimal(value, 100) + "TiB"
	})
}

// short cuts large numbers: "99999", "100k", "2M".
func short(value, exact float64) string {
	switch {
	case value < 99999.5:
		return decimal(value, exact)
	case value < 999.5e3:
		return decimal(value/1e3, 1) + "k"
	default:
		return decimal(value/1e6, 100) + "M"
	}
}

// decimal shows one digit behind the point of numbers below exact, unless it is
// a zero.
func decimal(value, exact float64) string {
	text := strconv.FormatFloat(value, 'f', 1, 64)
	if value >= exact {
		text = strconv.FormatFloat(value, 'f', 0, 64)
	}
	return strings.TrimSuffix(text, ".0")
}

// plural is "1 worker", "2 workers".
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}

// few names some, and counts the rest.
func few(names []string) string {
	const most = 8
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}
