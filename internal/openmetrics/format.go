package openmetrics

import (
	"mime"
	"strconv"
	"strings"
)

// Format is one of the two text formats.
type Format int

// The formats.
const (
	OpenMetrics Format = iota // 1.0.0
	Text                      // Prometheus's own, 0.0.4: counters keep the _total of their samples, infos are gauges
)

// ContentType is that of an answer in this format.
func (f Format) ContentType() string {
	if f == Text {
		return "text/plain; version=0.0.4; charset=utf-8"
	}
	return "application/openmetrics-text; version=1.0.0; charset=utf-8"
}

// Negotiate chooses the format for a request with this header Accept (RFC 9110, 12.5.1),
// its lines joined by commas: OpenMetrics if that is asked for by its name, and no kind of
// plain text is preferred to it; Text for all others. Who accepts neither gets Text too.
func Negotiate(accept string) Format {
	asked, text := 0.0, 0.0
	for part := range strings.SplitSeq(accept, ",") {
		name, parameters, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		quality := 1.0
		if q, given := parameters["q"]; given {
			if quality, err = strconv.ParseFloat(q, 64); err != nil {
				continue
			}
		}
		switch version := parameters["version"]; {
		case name == "application/openmetrics-text" && (version == "" || version == "1.0.0"):
			asked = max(asked, quality)
		case name == "text/plain" && (version == "" || version == "0.0.4"):
			text = max(text, quality)
		}
	}
	if asked > 0 && asked >= text {
		return OpenMetrics
	}
	return Text
}
