package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/test/load"
)

// A row is what one program has shown.
type row struct {
	program program
	version string
	missing string // why it could not be run; "": it could

	natural, declared error // why it does not serve, without --listen and with it
	note              string
	seen              string // how it was found to be ready
	gaps              [2]gap // without --listen and with it
	counted           string
	connections       int64 // counted while each client has one
	rolls, own        [len(habits)]cost
	kill              cost
	stopped           string
}

// gap is how much later than the first answer a program that takes 3 s to boot was said
// to be ready.
type gap struct {
	known bool
	late  time.Duration
	err   error
}

func (g gap) String() string {
	if !g.known {
		return "-"
	}
	return fmt.Sprintf("%+d ms", g.late.Milliseconds())
}

// cost is what a disturbance did to the clients.
type cost struct {
	measured bool
	err      error
	cuts     bool // not measured: the program closes connections without saying so, roll or not
	asked    int
	failed   load.Tally
	longest  time.Duration // of a request that was answered
}

func (c cost) String() string {
	switch {
	case c.cuts:
		return "cuts always"
	case !c.measured:
		return "-"
	case c.err != nil:
		return short(c.err.Error())
	case c.asked == 0:
		return "done"
	default:
		return fmt.Sprintf("%v of %d", c.failed, c.asked)
	}
}

func (c cost) stall() string {
	if c.longest == 0 {
		return ""
	}
	return fmt.Sprintf(", %.2f s", c.longest.Seconds())
}

// early is how long before the first answer ready may be said: the time of a poll.
const early = 50 * time.Millisecond

// cells are the columns of the row, after the program.
func (r row) cells() []string {
	cells := r.plainCells()
	for i := range cells {
		cells[i] = strings.ReplaceAll(cells[i], "|", `\|`)
	}
	return cells
}

func (r row) plainCells() []string {
	if r.missing != "" {
		return []string{"not run: " + short(r.missing), "-", "-", "-", "-", "-", "-"}
	}
	gaps := fmt.Sprintf("%v / %v", r.gaps[0], r.gaps[1])
	counted := r.counted
	if r.connections > 0 {
		counted = fmt.Sprintf("%s, %d of %d", r.counted, r.connections, clients)
	}
	return []string{
		r.works(), strings.TrimPrefix(r.seen+", "+gaps, ", "), dash(counted), pair(r.rolls), pair(r.own), r.kill.String() + r.kill.stall(), dash(r.stopped),
	}
}

func (r row) works() string {
	say := func(err error) string {
		if err == nil {
			return "yes"
		}
		return "no: " + short(err.Error())
	}
	var text string
	switch {
	case r.program.declared:
		text = say(r.declared) + " (with `--listen`)"
	case r.program.job:
		text = say(r.natural)
	default:
		text = say(r.natural) + " / " + say(r.declared)
	}
	if r.note != "" {
		text += "; " + r.note
	}
	return text
}

// line is the row for the eye.
func (r row) line() string { return r.program.name + ": " + strings.Join(r.cells(), " | ") }

func pair(costs [len(habits)]cost) string {
	if !costs[1].measured && !costs[1].cuts {
		return costs[0].String()
	}
	return fmt.Sprintf("%v / %v", costs[0], costs[1])
}

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// short makes a message fit a cell.
func short(text string) string {
	text, _, _ = strings.Cut(text, "\n")
	if len(text) > 120 {
		text = text[:117] + "..."
	}
	return text
}

// shortfalls are the promises that a row breaks.
func shortfalls(rows []row) (missed []string) {
	for _, r := range rows {
		say := func(format string, args ...any) {
			missed = append(missed, r.program.name+": "+fmt.Sprintf(format, args...))
		}
		if r.missing != "" {
			continue
		}
		if r.natural != nil || r.declared != nil {
			say("does not work: %s", r.works())
		}
		for i, g := range r.gaps {
			if g.known && g.late < -early {
				say("ready was said %v before the first answer, %s", -g.late.Round(time.Millisecond), [...]string{"without --listen", "with it"}[i])
			}
		}
		promised := [len(habits)]bool{r.program.drains, r.program.keeps}
		for i, c := range r.rolls {
			if c.err != nil || promised[i] && c.failed.Total() > 0 {
				say("rolls, %v: %v", habits[i], c)
			}
		}
		if r.kill.err != nil {
			say("SIGKILL: %v", r.kill.err)
		}
		if r.stopped != "" && !strings.HasPrefix(r.stopped, "nothing") {
			say("stop: %s", r.stopped)
		}
	}
	return missed
}

const preface = `# Compatibility

Written by ` + "`make compat`" + `; what you change here is lost. One run of every program on one machine (%s),
each with two workers by its natural command: ` + "`forkd run --workers 2 -- COMMAND`" + `. Single runs on a busy
machine: 12 failures against 17 mean nothing, 0 against 30 does.

- works: without ` + "`--listen`" + ` / with ` + "`--listen :PORT`" + `.
- ready: how a worker was found to be ready, and when, against the first answer that a client got which asked all the
  time; the program takes 3 s to boot: without ` + "`--listen`" + ` / with it. It is never to be earlier than a poll.
- counted: who counts the connections, and how many were counted while %d clients had one open each.
- rolls: failed requests in three rolls under the load of %d clients that never retry, one connection per request /
  keep-alive. "Cuts always": it closes connections without having said so, roll or not.
- own master: the same reload of two workers by the program's own master, or by pm2, in the same run.
- SIGKILL: failed requests when one worker is killed, one connection per request, and the longest that an answer took.
- stop: what was left when it had stopped, and how long that took.

| program | works | ready | counted | rolls | own master | SIGKILL | stop leaves |
|---|---|---|---|---|---|---|---|
`

func writeDocument(file string, rows []row) error {
	var text bytes.Buffer
	fmt.Fprintf(&text, preface, machine(), clients, clients)
	for _, r := range rows {
		fmt.Fprintf(&text, "| %s | %s |\n", strings.TrimSpace(r.program.name+" "+r.version), strings.Join(r.cells(), " | "))
	}
	fmt.Fprint(&text, "\n## The commands\n\n")
	for _, r := range rows {
		fmt.Fprintf(&text, "- %s: `%s`", r.program.name, strings.Join(r.program.command, " "))
		if r.program.needs != "" {
			fmt.Fprintf(&text, "; it needs %s", r.program.needs)
		}
		fmt.Fprintln(&text)
	}
	if missed := shortfalls(rows); len(missed) > 0 {
		fmt.Fprintf(&text, "\n## What fell short\n\n- %s\n", strings.Join(missed, "\n- "))
	}
	return replaceFile(file, text.Bytes())
}

func replaceFile(file string, text []byte) error {
	if err := os.WriteFile(file+".new", text, 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// machine says what matters for the figures, and nothing that names the machine.
func machine() string {
	var u unix.Utsname
	release := "unknown"
	if unix.Uname(&u) == nil {
		release, _, _ = strings.Cut(unix.ByteSliceToString(u.Release[:]), "-")
	}
	return fmt.Sprintf("%d cores, Linux %s, %s", runtime.NumCPU(), release, runtime.Version())
}
