package sockets

import (
	"strings"
	"testing"
)

// The record comes back from the fd store, names from systemd.
func FuzzPassed(f *testing.F) {
	f.Add(`{"orders":{"127.0.0.1:80":[2,0,1]},"stored":[1]}`, "http.1")
	f.Add(`{"orders":{"dual [::]:80":[]}}x`, "a.b.1023")
	f.Fuzz(func(t *testing.T, record, name string) {
		end := endpoint{addr: ipv4Loopback, port: 80}
		o := recordFile{read: parseRecord(strings.NewReader(record))}
		given := []*socket{{slot: 1}, {}}
		o.sort(end, given)
		if given[0].slot+given[1].slot != 1 {
			t.Errorf("slots %d and %d", given[0].slot, given[1].slot)
		}
		if listener, slot, ok := storedName(name); ok && storeName(listener, slot) != name {
			t.Errorf("%q reads as %q and %d", name, listener, slot)
		}
	})
}
