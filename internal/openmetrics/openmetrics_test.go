package openmetrics

import (
	"math"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func write(f Format) string {
	w := Writer{Format: f}
	w.Family("forkd_build", Info, "The forkd that answers.")
	w.Sample(1, "version", "1.2.3")
	w.Family("forkd_unknown", Gauge, "Nobody knows it.")
	w.Family("forkd_worker_requests", Counter, `Requests: a "quoted" \ word`)
	w.Sample(1<<40, "app", "shop", "slot", "0")
	w.Sample(0, "app", "a\\b\"c\nd\xff", "slot", "1")
	w.Family("forkd_worker_cpu_seconds", Counter, "Processor time.")
	w.Sample(1.25)
	w.Family("forkd_limits", Gauge, "Ends of numbers.")
	w.Sample(math.Inf(1), "is", "plus")
	w.Sample(math.Inf(-1), "is", "minus")
	w.Sample(math.NaN(), "is", "none")
	w.Sample(1e300, "is", "large")
	w.Sample(-3, "is", "negative")
	return string(w.Bytes())
}

func TestOpenMetrics(t *testing.T) {
	want := `# HELP forkd_build The forkd that answers.
# TYPE forkd_build info
forkd_build_info{version="1.2.3"} 1
# HELP forkd_worker_requests Requests: a \"quoted\" \\ word
# TYPE forkd_worker_requests counter
forkd_worker_requests_total{app="shop",slot="0"} 1099511627776
forkd_worker_requests_total{app="a\\b\"c\nd�",slot="1"} 0
# HELP forkd_worker_cpu_seconds Processor time.
# TYPE forkd_worker_cpu_seconds counter
# UNIT forkd_worker_cpu_seconds seconds
forkd_worker_cpu_seconds_total 1.25
# HELP forkd_limits Ends of numbers.
# TYPE forkd_limits gauge
forkd_limits{is="plus"} +Inf
forkd_limits{is="minus"} -Inf
forkd_limits{is="none"} NaN
forkd_limits{is="large"} 1e+300
forkd_limits{is="negative"} -3
# EOF
`
	if diff := cmp.Diff(want, write(OpenMetrics)); diff != "" {
		t.Error(diff)
	}
}

func TestText(t *testing.T) {
	got := write(Text)
	for _, line := range []string{
		"# HELP forkd_build_info The forkd that answers.",
		"# TYPE forkd_build_info gauge",
		`# HELP forkd_worker_requests_total Requests: a "quoted" \\ word`,
		"# TYPE forkd_worker_requests_total counter",
		"# TYPE forkd_worker_cpu_seconds_total counter",
		"forkd_worker_cpu_seconds_total 1.25",
	} {
		if !strings.Contains(got, line+"\n") {
			t.Errorf("no line %q in\n%s", line, got)
		}
	}
	for _, word := range []string{"EOF", "UNIT", " info\n", "forkd_unknown"} {
		if strings.Contains(got, word) {
			t.Errorf("%q stands in\n%s", word, got)
		}
	}
}

func TestNegotiate(t *testing.T) {
	for accept, want := range map[string]Format{
		"":    Text,
		"*/*": Text,
		"application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1":    OpenMetrics, // Prometheus 2.42
		"application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,*/*;q=0.1":      OpenMetrics, // Prometheus 3
		"application/vnd.google.protobuf;encoding=delimited;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4": OpenMetrics,
		"application/openmetrics-text":                                      OpenMetrics,
		"APPLICATION/OpenMetrics-Text; VERSION=1.0.0; charset=utf-8":        OpenMetrics,
		"application/openmetrics-text;version=0.0.1":                        Text,
		"application/openmetrics-text;version=2.0.0":                        Text,
		"application/openmetrics-text;q=0":                                  Text,
		"application/openmetrics-text;q=high":                               Text,
		"application/openmetrics-text;q=0.3,text/plain":                     Text,
		"application/openmetrics-text;q=0.3,text/plain;version=1.0.0;q=0.5": OpenMetrics,
		"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8":   Text, // a browser
		";;;,,\"": Text,
	} {
		if got := Negotiate(accept); got != want {
			t.Errorf("Negotiate(%q) = %v, want %v", accept, got, want)
		}
	}
}

// FuzzSample checks that no label's value ends its line or its quotes.
func FuzzSample(f *testing.F) {
	f.Add("shop", 1.0)
	f.Add("a\"} 1\n# EOF\n", math.Inf(-1))
	f.Add("\xff\\", 1e-300)
	f.Fuzz(func(t *testing.T, value string, figure float64) {
		var w Writer
		w.Family("x", Gauge, value)
		w.Sample(figure, "l", value)
		lines := strings.Split(string(w.Bytes()), "\n")
		if len(lines) != 5 || lines[3] != "# EOF" || !utf8.ValidString(lines[2]) {
			t.Fatalf("lines: %q", lines)
		}
		rest, found := strings.CutPrefix(lines[2], `x{l="`)
		var read strings.Builder
		for found && rest[0] != '"' {
			c := rest[0]
			if rest = rest[1:]; c == '\\' {
				c = map[byte]byte{'\\': '\\', '"': '"', 'n': '\n'}[rest[0]]
				rest = rest[1:]
			}
			read.WriteByte(c)
		}
		if !strings.HasPrefix(rest, `"} `) || strings.ContainsAny(rest[3:], ` "{}`) || read.String() != strings.ToValidUTF8(value, "\uFFFD") {
			t.Errorf("%q was written as %q", value, lines[2])
		}
	})
}
