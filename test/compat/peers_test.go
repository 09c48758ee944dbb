package main

import (
	"context"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/forkd/forkd/test/load"
)

// Every contender is compared with one under forkd, and has two broken releases.
func TestContenders(t *testing.T) {
	known := contenders()
	if _, err := choose(known, "forkd,pm2"); err != nil {
		t.Error(err)
	}
	for _, c := range known {
		if c.beside != "" {
			if found, err := choose(known, c.beside); err != nil || len(found) != 1 || found[0].beside != "" {
				t.Errorf("%s stands beside %q, %v", c.name, c.beside, err)
			}
		}
		reloads := c.own.by != nil || c.own.reload != 0
		if c.release == "" || c.broken[0] == "" || c.broken[1] == "" || c.version == "" || reloads == c.restart {
			t.Errorf("%s is not whole: %+v", c.name, c)
		}
	}
}

// Node's cluster rolls, replaces what is killed, and survives a release that crashes;
// a master that is stopped and started does not.
func TestContest(t *testing.T) {
	t.Chdir("../..")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	for _, restart := range []bool{false, true} {
		found, err := choose(contenders(), "Node cluster")
		if err != nil {
			t.Fatal(err)
		}
		c := &contest{contender: found[0]}
		c.restart = restart
		c.prepare(ctx)
		if c.missing != "" {
			t.Fatal(c.missing)
		}
		defer c.stage.clear()
		if err := c.up(ctx); err != nil {
			t.Fatal(err)
		}
		defer c.down(ctx)
		if err := c.look(ctx); err != nil || c.memory < 10e6 {
			t.Errorf("the master's memory is %d, %v", c.memory, err)
		}
		// Before the roll, after which all have loaded their program: one that is slow would load the broken one.
		if err := c.killThrice(ctx); err != nil {
			t.Error(err)
		}
		before := children(c.master())
		if _, err := c.rollOnce(ctx); err != nil {
			t.Fatal(err)
		}
		after := children(c.master())
		if len(after) < 2 || after[0] == before[0] || after[0] == before[1] {
			t.Errorf("a roll leaves %v of %v", after, before)
		}
		var d deploy
		if err := c.deploy(ctx, c.broken[0], &d); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(d.said, "$DIR/server.js:1") || strings.Contains(d.said, c.stage.dir) {
			t.Errorf("it said %q", d.said)
		}
		if _, failed := load.NewClient(c.stage.target).Ask(true); (failed != nil) != restart {
			t.Errorf("after the deploy, started anew %v: %+v", restart, failed)
		}
	}
}

func TestEndedProcessHasEnded(t *testing.T) {
	p := &process{ended: make(chan struct{})}
	if p.endsIn(0) {
		t.Error("one that runs has ended")
	}
	close(p.ended)
	for range 1000 {
		if !p.endsIn(0) {
			t.Fatal("one that has ended has not")
		}
	}
}

func TestPeersDocument(t *testing.T) {
	ours := &contest{contender: contender{program: program{name: "forkd with x", own: &own{by: []string{"a", "b|c"}}}}}
	theirs := &contest{contender: contender{program: program{name: "peer <x>", own: &own{}}, beside: "forkd with x", restart: true}, cuts: true}
	absent := &contest{contender: contender{program: program{name: "absent", own: &own{}}, restart: true}, missing: "prepare: none"}
	ours.rates = [len(habits)][]float64{{100, 200, 400}, {1000}}
	theirs.rates = [len(habits)][]float64{{50, 300, 200}}
	theirs.rolls[0] = cost{measured: true, asked: 100, failed: load.Tally{load.Reset: 9}, longest: time.Second, err: errors.New("first\nlast")}
	theirs.deploys[0] = deploy{cost: cost{measured: true, asked: 10}, code: "0", said: strings.Repeat("line\n", 20) + "end"}
	dir := t.TempDir()
	if err := writePeers(filepath.Join(dir, "peers.md"), []*contest{ours, theirs, absent}, pace{3, time.Second}); err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	text := read("peers.md")
	for _, want := range []string{
		"| forkd with x | - | 200 / 1000 | - / - |", "| 200 / cuts always | 0.50 / cuts always |", `a b\|c`,
		"9 (reset 9) of 100 [1.00 s]; last", "| 0 | 0 of 10, **down** |", "... 9 lines ...\n", "not measured: prepare: none",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	bars := 0
	for line := range strings.SplitSeq(text, "\n") {
		n := strings.Count(strings.ReplaceAll(line, `\|`, ""), "|")
		switch {
		case !strings.HasPrefix(line, "|"):
			bars = 0
		case bars == 0:
			bars = n
		case bars != n:
			t.Errorf("%d bars, not %d, in %q", n, bars, line)
		}
	}
	for _, name := range []string{"peers-throughput.svg", "peers-failures.svg"} {
		for d := xml.NewDecoder(strings.NewReader(read(name))); ; {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v in\n%s", name, err, read(name))
			}
		}
		if !strings.Contains(read(name), "peer &lt;x&gt;") {
			t.Errorf("%s is %s", name, read(name))
		}
	}
	if svg := read("peers-throughput.svg"); !strings.Contains(svg, "0.50 of forkd with x") {
		t.Errorf("no ratio in %s", svg)
	}
}
