// Package openmetrics writes figures as Prometheus scrapes them: the text format of
// OpenMetrics 1.0 (github.com/prometheus/OpenMetrics, specification/OpenMetrics.md), or
// the older one of Prometheus, version 0.0.4, for those who don't ask for the other.
//
// It is no registry and keeps nothing: whoever answers a scrape writes the figures that
// there are then, and leaves out what is not known.
package openmetrics

import (
	"math"
	"strconv"
	"strings"
)

// Kind is the type of a family.
type Kind string

// The kinds of families.
const (
	Counter Kind = "counter" // never falls but when its process starts again; the samples' names end in _total
	Gauge   Kind = "gauge"
	Info    Kind = "info" // the samples' names end in _info, their value is 1
)

// Writer collects the families of one answer. The zero Writer writes OpenMetrics.
type Writer struct {
	Format Format

	text   []byte
	family []byte // what stands before the first sample of the family that was begun last; empty: written
	sample string // the name of its samples
}

// Family begins a family; each name may be begun once. The name is without the suffix of
// the samples: "forkd_rolls" for forkd_rolls_total. If its last word is a unit (seconds,
// bytes, ratio), that is said too. help is one line. A family without a sample is not
// written.
func (w *Writer) Family(name string, kind Kind, help string) {
	w.sample = name
	switch kind {
	case Counter:
		w.sample += "_total"
	case Info:
		w.sample += "_info"
	case Gauge:
	}
	described := name
	if w.Format == Text { // which describes samples, and knows no infos
		described = w.sample
		if kind == Info {
			kind = Gauge
		}
	}
	w.family = append(w.family[:0], "# HELP "+described+" "+escape(help, w.Format == OpenMetrics)+"\n# TYPE "+described+" "+string(kind)+"\n"...)
	if unit := unitOf(name); unit != "" && w.Format == OpenMetrics {
		w.family = append(w.family, "# UNIT "+described+" "+unit+"\n"...)
	}
}

func unitOf(name string) string {
	switch last := name[strings.LastIndexByte(name, '_')+1:]; last {
	case "seconds", "bytes", "ratio":
		return last
	default:
		return ""
	}
}

// Sample adds a sample to the family that was begun last. labels are names and values in
// turns; a value may hold anything. No two samples of a family may have the same labels.
func (w *Writer) Sample(value float64, labels ...string) {
	w.text = append(w.text, w.family...)
	w.family = w.family[:0]
	w.text = append(w.text, w.sample...)
	for i := 0; i+1 < len(labels); i += 2 {
		separator := byte(',')
		if i == 0 {
			separator = '{'
		}
		w.text = append(append(w.text, separator), labels[i]+`="`+escape(labels[i+1], true)+`"`...)
	}
	if len(labels) > 1 {
		w.text = append(w.text, '}')
	}
	w.text = appendNumber(append(w.text, ' '), value)
	w.text = append(w.text, '\n')
}

// appendNumber writes whole numbers, of connections or bytes, as people do.
func appendNumber(b []byte, value float64) []byte {
	const exact = 1 << 53
	if value == math.Trunc(value) && math.Abs(value) < exact {
		return strconv.AppendInt(b, int64(value), 10)
	}
	return strconv.AppendFloat(b, value, 'g', -1, 64) // "+Inf", "-Inf" and "NaN" are called so in the format
}

// Bytes ends the answer and returns it. Nothing may be added then.
func (w *Writer) Bytes() []byte {
	if w.Format == OpenMetrics {
		w.text = append(w.text, "# EOF\n"...)
	}
	return w.text
}

// escape replaces what would end a line or, if quotes are escaped, a label's value, and what
// is not UTF-8.
func escape(s string, quotes bool) string {
	s = strings.NewReplacer(`\`, `\\`, "\n", `\n`).Replace(strings.ToValidUTF8(s, "\uFFFD"))
	if quotes {
		s = strings.ReplaceAll(s, `"`, `\"`)
	}
	return s
}
