package control

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestParseScale(t *testing.T) {
	for _, text := range []string{"1", "1024", "004", "+2", "-1", "+1023", "cpus", "cpus-1", "cpus*2+1", "50%", "200%"} {
		s, err := ParseScale(text)
		if err != nil || string(s) != text {
			t.Errorf("%s: %s, %v", text, s, err)
		}
		// And it survives the way to the master.
		data, err := json.Marshal(scaling{s})
		if err != nil {
			t.Fatal(err)
		}
		var body scaling
		if err := json.Unmarshal(data, &body); err != nil {
			t.Fatal(err)
		}
		if body.Workers != s {
			t.Errorf("%s, as %s: %s", text, data, body.Workers)
		}
	}
	for _, text := range []string{
		"", "0", "1025", "100000", "99999999999999999999", "+", "-", "+0", "-0", "--1", "+-1", "1.5", "0x4", " 4", "4 ", "٤",
		"cpus-", "cpus-0", "cpus+", "cpus-x", "CPUS", "%", "0%", "-5%", "5%%", "1e3%", "all", "null", strings.Repeat("9", 1<<16),
	} {
		if s, err := ParseScale(text); err == nil || len(err.Error()) > 200 {
			t.Errorf("%.40q: %q, %v", text, s, err)
		}
	}
}

func TestShare(t *testing.T) {
	for text, want := range map[string]int{
		"cpus": 8, "cpus-1": 7, "cpus-7": 1, "cpus-99999": 1, "cpus+1": 9, "cpus*2": 16, "cpus*2+1": 17, "cpus*2-20": 1, "50%": 4, "51%": 5, "1%": 1, "200%": 16, "99999%": 8000,
	} {
		if n, ok := Share(text, 8); !ok || n != want {
			t.Errorf("%s of 8: %d, %v; want %d", text, n, ok, want)
		}
	}
	for _, text := range []string{"", "4", "+1", "-1", "cpus-", "cpus-0", "cpus1", "cpus+", "cpus+0", "cpus*", "cpus*0", "cpus*0+1", "cpus*2+", "cpus*2*2", "cpus**2", "cpus*2+1+1", "cpus*-2", "2*cpus+1", "cpus--1", "cpus-1%", "%", "0%", "-1%", "100000%", "cpus-100000", " cpus"} {
		if n, ok := Share(text, 8); ok {
			t.Errorf("%q is %d", text, n)
		}
	}
}

func TestScaleWorkers(t *testing.T) {
	for _, test := range []struct {
		s         Scale
		now, cpus int
		want      int // 0: refused
	}{
		{"3", 2, 8, 3},
		{"+2", 2, 8, 4},
		{"-1", 2, 8, 1},
		{"-2", 2, 8, 0},
		{"+1", 1024, 8, 0},
		{"cpus", 2, 8, 8},
		{"cpus", 2, 4096, 1024},
		{"cpus-1", 2, 8, 7},
		{"cpus-9", 2, 8, 1},
		{"50%", 2, 3, 2},
		{"1%", 2, 3, 1},
		{"60000%", 2, 8, 0},
	} {
		if n, err := test.s.Workers(test.now, test.cpus); n != test.want || (err == nil) != (test.want > 0) {
			t.Errorf("%v of %d, with %d cpus: %d, %v; want %d", test.s, test.now, test.cpus, n, err, test.want)
		}
	}
}
