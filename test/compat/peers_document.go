package main

import (
	"bytes"
	"cmp"
	"fmt"
	"html"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/forkd/forkd/test/load"
)

const peersPreface = `# forkd and its peers

Written by ` + "`make bench-peers`" + `; what you change here is lost. One run on one machine (%s), client and servers
together, each with two workers. Versions are those of Debian and npm. Absolute figures move from machine to machine:
compare rows with each other. %d rounds; in each every contender is asked, by %d clients that never retry, for %v per load.
Each is in a session of its own: the kernel shares the processors among sessions (sched(7), the autogroup feature), and clients and a server
in one session are faster than forkd's workers, which have one each, could be.

- requests/s: as fast as it answers, one connection per request / keep-alive, the median. "Cuts always": it closes
  connections without having said so.
- ratio: the same, divided by that of the row it stands beside in the same round; the median. uWSGI and puma stand beside
  gunicorn under forkd, nginx beside fasthttp under forkd: these are other programs, and say how far apart they are.
- p99: at %d requests a second, keep-alive if it can, counted from when each was due.
- memory: the master's RSS, after the load. status: the command that shows the workers, from fork to exit, the median of %d.
- roll: the median time from the reload until no old worker is left and as many new processes are there, under load. The
  command of forkd returns later: it watches the new ones for 5 s and would bring the old release back.

![Throughput](peers-throughput.svg)

| | beside | requests/s | ratio | p99 | failed | memory | status | roll |
|---|---|---|---|---|---|---|---|---|
`

const peersFailures = `
## Failed requests

Three rolls, and three workers killed with SIGKILL one after the other, under the load of the clients: one connection per
request / keep-alive. In brackets the longest that an answered request took.

![Failed requests](peers-failures.svg)

| | deploy | three rolls | three SIGKILLs |
|---|---|---|---|
`

const peersBroken = `
## A broken deploy

The release is replaced by one that exits at once, or by one that starts and never listens (nginx: a configuration that is
none, one with another port), and deployed. Failed: of the requests until %v after the command; "down": nobody answers then.
Under forkd ` + "`--ready-timeout`" + ` is 10 s, in place of 30 s.

| | it crashes: exit status | failed | it never listens: exit status | failed |
|---|---|---|---|---|
`

// writePeers writes docs/peers.md, or where file is, and its two plots beside it.
func writePeers(file string, contests []*contest, p pace) error {
	var text bytes.Buffer
	fmt.Fprintf(&text, peersPreface, machine(), p.rounds, clients, p.span, fixedRate, asks)
	write := func(c *contest, cells ...string) {
		for i := range cells {
			cells[i] = strings.ReplaceAll(cells[i], "|", `\|`)
		}
		fmt.Fprintf(&text, "| %s | %s |\n", strings.TrimSpace(c.name), strings.Join(cells, " | "))
	}
	for _, c := range contests {
		write(c, dash(c.beside), c.both(c.rates, "%.0f"), c.both(c.ratios(contests), "%.2f"), milli(middle(c.p99)), c.failed.String(),
			fmt.Sprintf("%.1f MB", float64(c.memory)/1e6), milli(c.answer), seconds(c.roll))
	}
	fmt.Fprint(&text, peersFailures)
	for _, c := range contests {
		write(c, c.how(), happened(c.rolls), happened(c.kills))
	}
	fmt.Fprintf(&text, peersBroken, watched)
	for _, c := range contests {
		write(c, c.deploys[0].code, c.deploys[0].seen(), c.deploys[1].code, c.deploys[1].seen())
	}
	fmt.Fprint(&text, "\nWhat the command said; where it says nothing, what the log said:\n")
	for _, c := range contests {
		for i, kind := range []string{"it crashes", "it never listens"} {
			fmt.Fprintf(&text, "\n%s, %s:\n\n", c.name, kind)
			for line := range strings.SplitSeq(dash(excerpt(c.deploys[i].said)), "\n") {
				fmt.Fprintln(&text, strings.TrimRight("    "+line, " "))
			}
		}
	}
	fmt.Fprint(&text, "\n## The commands\n\n")
	for _, c := range contests {
		fmt.Fprintf(&text, "- %s %s: `%s`\n", c.name, c.version, strings.Join(c.command, " "))
		if c.missing != "" {
			fmt.Fprintf(&text, "  - not measured: %s\n", short(c.missing))
		}
	}
	return cmp.Or(
		replaceFile(file, text.Bytes()),
		replaceFile(filepath.Join(filepath.Dir(file), "peers-throughput.svg"), []byte(throughputPlot(contests))),
		replaceFile(filepath.Join(filepath.Dir(file), "peers-failures.svg"), []byte(failuresPlot(contests))),
	)
}

// ratios are the rates of each round by those of the contender beside it.
func (c *contest) ratios(contests []*contest) (ratios [len(habits)][]float64) {
	at := slices.IndexFunc(contests, func(other *contest) bool { return other.name == c.beside })
	if at < 0 {
		return ratios
	}
	for i, rates := range c.rates {
		for round := range min(len(rates), len(contests[at].rates[i])) {
			ratios[i] = append(ratios[i], rates[round]/contests[at].rates[i][round])
		}
	}
	return ratios
}

// both writes the medians of both habits.
func (c *contest) both(values [len(habits)][]float64, format string) string {
	var texts [len(habits)]string
	for i := range values {
		switch {
		case len(values[i]) > 0:
			texts[i] = fmt.Sprintf(format, middle(values[i]))
		case habits[i] == load.Keeping && c.cuts:
			texts[i] = "cuts always"
		default:
			texts[i] = "-"
		}
	}
	return texts[0] + " / " + texts[1]
}

func milli(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f ms", float64(d)/1e6)
}

func seconds(d []time.Duration) string {
	if len(d) == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f s", middle(d).Seconds())
}

// happened is what the clients saw with both habits, and what went wrong besides.
func happened(costs [len(habits)]cost) string {
	var texts []string
	for _, c := range costs {
		err := c.err
		c.err = nil
		text := c.String()
		if c.longest > 0 {
			text += fmt.Sprintf(" [%.2f s]", c.longest.Seconds())
		}
		if err != nil {
			lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
			text += "; " + short(lines[len(lines)-1])
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, " / ")
}

func (d deploy) seen() string {
	text := happened([len(habits)]cost{d.cost})
	text, _, _ = strings.Cut(text, " / ")
	if d.measured && !d.serves {
		text += ", **down**"
	}
	return text
}

// excerpt is the beginning of a long text, and its end.
func excerpt(text string) string {
	const head, tail, width = 8, 4, 400
	lines := strings.Split(text, "\n")
	if over := len(lines) - head - tail; over > 0 {
		lines = slices.Concat(lines[:head], []string{fmt.Sprintf("... %d lines ...", over)}, lines[head+over:])
	}
	for i, line := range lines {
		if runes := []rune(line); len(runes) > width {
			lines[i] = string(runes[:width]) + "..."
		}
	}
	return strings.Join(lines, "\n")
}

// A bar is one of a plot; series says which colour it has, text stands at its end.
type bar struct {
	label  string // of the first of a group
	series int
	value  float64
	text   string
}

// bars draws them under each other, the longest over the whole width. Colours are
// readable on white and on black.
func bars(title string, series []string, drawn []bar) string {
	const width, left, right, top, height = 800, 130, 150, 48, 14
	longest := 0.0
	for _, b := range drawn {
		longest = max(longest, b.value)
	}
	colours := []string{"#4477aa", "#ee6677", "#228833", "#ccbb44"}
	var text strings.Builder
	for i, s := range series {
		fmt.Fprintf(&text, `<text x="%d" y="36" fill="%s">%s</text>`+"\n", left+160*i, colours[i], html.EscapeString(s))
	}
	y := top
	for _, b := range drawn {
		if b.label != "" {
			y += height / 2
			fmt.Fprintf(&text, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", left-6, y+height-4, html.EscapeString(b.label))
		}
		long := 0.0
		if longest > 0 {
			long = b.value / longest * (width - left - right)
		}
		fmt.Fprintf(&text, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/><text x="%.1f" y="%d">%s</text>`+"\n",
			left, y+1, max(1, long), height-2, colours[b.series], left+long+6, y+height-4, html.EscapeString(b.text))
		y += height
	}
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="11" fill="#808080">`+"\n"+
		`<text x="%d" y="16" font-size="13">%s</text>`+"\n", width, y+10, left, html.EscapeString(title)) + text.String() + "</svg>\n"
}

func throughputPlot(contests []*contest) string {
	var drawn []bar
	for _, c := range contests {
		label := c.name
		for i, ratios := range c.ratios(contests) {
			if len(ratios) > 0 {
				drawn = append(drawn, bar{label, i, middle(ratios), fmt.Sprintf("%.2f of %s", middle(ratios), c.beside)})
				label = ""
			}
		}
	}
	return bars("Requests a second, of those of the program under forkd that it stands beside",
		[]string{habits[0].String(), habits[1].String()}, drawn)
}

func failuresPlot(contests []*contest) string {
	var drawn []bar
	for _, c := range contests {
		label := c.name
		for i, costs := range [][len(habits)]cost{c.rolls, c.kills} {
			for j, cost := range costs {
				if cost.measured {
					failed := cost.failed.Total()
					drawn = append(drawn, bar{label, 2*i + j, math.Log10(1 + float64(failed)), fmt.Sprint(failed)})
					label = ""
				}
			}
		}
	}
	return bars("Failed requests, on a logarithmic scale",
		[]string{"rolls, closing", "rolls, keep-alive", "SIGKILLs, closing", "SIGKILLs, keep-alive"}, drawn)
}
