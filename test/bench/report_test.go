package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReportSaysWhatWasMissed(t *testing.T) {
	results := []result{{
		figure{name: "speed", title: "Speed", how: "With a watch."},
		[]row{
			promise("fast", "1 or more", true, "%d", 2),
			promise("small", "1 or less", false, "%d", 2),
			note("colour", "green"),
		},
	}}
	if !fellShort(results) || fellShort([]result{{rows: results[0].rows[:1]}}) {
		t.Error("what fell short is not told from what did not")
	}
	file := filepath.Join(t.TempDir(), "docs", "benchmarks.md")
	if err := writeDocument(file, "2 cores", results); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\n2 cores.\n", "## Speed\n\nWith a watch.\n", "| fast | 2 | 1 or more | kept |", "| small | 2 | 1 or less | MISSED |", "| colour | green |  |  |"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the document lacks %q:\n%s", want, text)
		}
	}
}

func TestChoose(t *testing.T) {
	chosen, err := choose("kills,rolls")
	if err != nil || len(chosen) != 2 || chosen[0].name != "kills" {
		t.Errorf("got %v, %v", namesOf(chosen), err)
	}
	if _, err := choose("kill"); err == nil || !strings.Contains(err.Error(), "kills") {
		t.Errorf("an unknown name: %v, want the known ones", err)
	}
}

func TestThousands(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 999.4: "999", 1000: "1,000", 1234567: "1,234,567"} {
		if got := thousands(v); got != want {
			t.Errorf("%v is written %q, want %q", v, got, want)
		}
	}
}
