// Package e2e plays the story of a fleet: hosts in network namespaces of one machine,
// each with forkd and examples/websocket; HAProxy and Redis on another; users who come,
// talk, leave and come back. It needs root, as it makes namespaces; what it makes ends with it.
package e2e

import (
	"fmt"
	"html"
	"maps"
	"slices"
	"strings"
)

// plot is connections per host over time.
type plot struct {
	title string
	times []float64        // seconds
	lines map[string][]int // of each host, as long as times
	marks []mark
}

// mark is something that happened.
type mark struct {
	at   float64
	text string
}

// add appends the connections of each host at a time.
func (p *plot) add(at float64, hosts map[string]int) {
	if p.lines == nil {
		p.lines = map[string][]int{}
	}
	for host := range hosts {
		if p.lines[host] == nil {
			p.lines[host] = make([]int, len(p.times))
		}
	}
	for host := range p.lines {
		p.lines[host] = append(p.lines[host], hosts[host])
	}
	p.times = append(p.times, at)
}

const (
	plotWidth, plotHeight = 800, 300
	left, right           = 50, 90 // margins
	top, bottom           = 30, 30
)

// svg draws it. Colours are readable on white and on black.
func (p *plot) svg() string {
	end, most := 1.0, 1
	for _, t := range p.times {
		end = max(end, t)
	}
	for _, line := range p.lines {
		most = max(most, slices.Max(line))
	}
	step := 1 // of the scale: 1, 2 or 5 times a power of ten
	for i := 0; most/step > 5; i++ {
		step = []int{2, 5, 10}[i%3] * pow10(i/3)
	}
	x := func(t float64) float64 { return left + t/end*(plotWidth-left-right) }
	y := func(n int) float64 { return plotHeight - bottom - float64(n)/float64(most)*(plotHeight-top-bottom) }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="11" fill="#808080">`+"\n", plotWidth, plotHeight)
	fmt.Fprintf(&b, `<text x="%d" y="16" font-size="13">%s</text>`+"\n", left, html.EscapeString(p.title))
	for n := 0; n <= most; n += step {
		fmt.Fprintf(&b, `<path d="M%d %.1fH%d" stroke="#808080" stroke-opacity=".3"/><text x="%d" y="%.1f" text-anchor="end">%d</text>`+"\n",
			left, y(n), plotWidth-right, left-5, y(n)+4, n)
	}
	for t := 0.0; t <= end; t += max(5, 5*float64(int(end/50))) {
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle">%.0f s</text>`+"\n", x(t), plotHeight-bottom+15, t)
	}
	for i, m := range p.marks {
		fmt.Fprintf(&b, `<path d="M%.1f %dV%d" stroke="#808080" stroke-dasharray="2 3"/><text x="%.1f" y="%d">%s</text>`+"\n",
			x(m.at), top, plotHeight-bottom, x(m.at)+3, top+10+12*(i%3), html.EscapeString(m.text))
	}
	colours := []string{"#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377"}
	for i, host := range slices.Sorted(maps.Keys(p.lines)) {
		colour := colours[i%len(colours)]
		points := make([]string, len(p.times))
		for j, n := range p.lines[host] {
			points[j] = fmt.Sprintf("%.1f,%.1f", x(p.times[j]), y(n))
		}
		fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="1.5"/><text x="%d" y="%d" fill="%s">%s</text>`+"\n",
			strings.Join(points, " "), colour, plotWidth-right+10, top+10+14*i, colour, html.EscapeString(host))
	}
	return b.String() + "</svg>\n"
}

func pow10(n int) int {
	p := 1
	for range n {
		p *= 10
	}
	return p
}
