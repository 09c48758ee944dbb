package e2e

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestPlot(t *testing.T) {
	t.Parallel()
	p := plot{title: "a < b"}
	p.add(0, map[string]int{"h1": 5})
	p.add(1, map[string]int{"h1": 730, "h2": 10})
	p.add(2, map[string]int{"h2": 20})
	p.marks = append(p.marks, mark{1, `"h1" & more`})
	svg := p.svg()
	for d := xml.NewDecoder(strings.NewReader(svg)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, svg)
		}
	}
	// Each line has a point for each time; a host that comes late or goes has 0.
	for _, want := range []string{
		`points="50.0,268.4 380.0,30.0 710.0,270.0"`, `points="50.0,270.0 380.0,266.7 710.0,263.4"`, "a &lt; b", ">200<", ">600<", "&#34;h1&#34; &amp; more",
	} {
		if !strings.Contains(svg, want) {
			t.Errorf("no %s in\n%s", want, svg)
		}
	}
	if empty := (&plot{}).svg(); !strings.HasSuffix(empty, "</svg>\n") {
		t.Errorf("an empty one is %q", empty)
	}
}
