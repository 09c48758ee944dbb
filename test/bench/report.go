package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"
)

// A row is one line of the table.
type row struct {
	what   string
	value  string
	target string // "": nothing is promised, the row explains the others
	missed bool
}

// promise makes a row of a value that must be kept.
func promise(what, target string, kept bool, format string, args ...any) row {
	return row{what, fmt.Sprintf(format, args...), target, !kept}
}

// note makes a row of a value that only explains.
func note(what, format string, args ...any) row {
	return row{what: what, value: fmt.Sprintf(format, args...)}
}

func (r row) verdict() string {
	switch {
	case r.target == "":
		return ""
	case r.missed:
		return "MISSED"
	default:
		return "kept"
	}
}

type result struct {
	figure figure
	rows   []row
}

func fellShort(results []result) bool {
	for _, res := range results {
		for _, r := range res.rows {
			if r.missed {
				return true
			}
		}
	}
	return false
}

func printTable(out io.Writer, results []result) {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "FIGURE\tMEASURED\tTARGET\t")
	for _, res := range results {
		for _, r := range res.rows {
			fmt.Fprintf(table, "%s: %s\t%s\t%s\t%s\n", res.figure.name, r.what, r.value, r.target, r.verdict())
		}
	}
	_ = table.Flush()
}

// describeMachine says what matters for the figures, and nothing that names the
// machine.
func describeMachine() string {
	var u unix.Utsname
	kernel := "unknown"
	if unix.Uname(&u) == nil {
		release, _, _ := strings.Cut(unix.ByteSliceToString(u.Release[:]), "-")
		kernel = release
	}
	return fmt.Sprintf("%d cores (%s), Linux %s, %s, %s", runtime.NumCPU(), processor(), kernel, runtime.Version(), runtime.GOARCH)
}

func processor() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	for line := range strings.SplitSeq(string(info), "\n") {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

const preface = `# Benchmarks

Written by ` + "`make bench`" + `; what you change here is lost. Client, forkd and peer share one machine:
%s.

Absolute figures move from machine to machine and from run to run; the failures, the ratios and the bounds are the
point. The client is the benchmark's own: it never sends a request twice, does not look at an idle connection before it
writes to it, and sorts every failure. [a .. b] are the quartiles around a median.

[peers.md](peers.md) has forkd beside nginx, pm2, gunicorn and other masters in one run: throughput, failures over reloads and
SIGKILLs, a broken deploy, with plots.
`

// writeDocument writes a whole run to file.
func writeDocument(file, machine string, results []result) error {
	var text bytes.Buffer
	fmt.Fprintf(&text, preface, machine)
	for _, res := range results {
		fmt.Fprintf(&text, "\n## %s\n\n%s\n\n| | measured | target | |\n|---|---|---|---|\n", res.figure.title, res.figure.how)
		for _, r := range res.rows {
			fmt.Fprintf(&text, "| %s | %s | %s | %s |\n", r.what, r.value, r.target, r.verdict())
		}
	}
	temporary := file + ".new"
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(temporary, text.Bytes(), 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, file)
}
