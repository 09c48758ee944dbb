package capture

import (
	"fmt"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseName(t *testing.T) {
	v6 := append([]byte{unix.AF_INET6, 0, 0x1f, 0x90, 0, 0, 0, 0, 0xfe, 0x80}, make([]byte, 18)...)
	v6[23], v6[24] = 1, 3
	mapped := slices.Concat(v6[:8], make([]byte, 10), []byte{0xff, 0xff, 127, 0, 0, 1, 3, 0, 0, 0})
	unixName := func(path string) []byte { return append([]byte{unix.AF_UNIX, 0}, path...) }
	for _, test := range []struct {
		text []byte
		want string // "": none
	}{
		{nil, ""},
		{[]byte{unix.AF_INET}, ""},
		{[]byte{unix.AF_INET, 0, 0x1f, 0x90, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0}, ""}, // too short
		{[]byte{unix.AF_INET, 0, 0x1f, 0x90, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0}, "127.0.0.1:8080"},
		{[]byte{unix.AF_INET, 0, 0, 0, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0}, ""},
		{v6, "[fe80::1%3]:8080"},
		{v6[:leastInet6], "[fe80::1]:8080"},
		{v6[:leastInet6-1], ""},
		{mapped, "[::ffff:127.0.0.1]:8080"},
		{unixName("/run/x\x00y"), "/run/x"},
		{unixName("x"), "x"},
		{unixName("\x00abstract"), ""},
		{unixName(""), ""},
		{unixName(string(slices.Repeat([]byte{'x'}, 109))), ""}, // too long
		{append([]byte{200, 0}, v6[2:]...), ""},
	} {
		at, ok := parseName(test.text)
		got := ""
		if ok && at.family == unix.AF_UNIX {
			got = at.path
		} else if ok {
			got = fmt.Sprint(at.address)
		}
		expect(t, fmt.Sprintf("%q", test.text), got, test.want)
	}
}

func FuzzParseName(f *testing.F) {
	f.Add([]byte{unix.AF_INET, 0, 0x1f, 0x90, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add(make([]byte, maxName))
	f.Fuzz(func(t *testing.T, text []byte) {
		at, ok := parseName(text)
		if ok && (at.path == "") == (at.address.Port() == 0) {
			t.Errorf("%q: %+v", text, at)
		}
	})
}
