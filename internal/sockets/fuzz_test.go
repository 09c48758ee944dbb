package sockets

import (
	"os"
	"strings"
	"testing"
)

// The table of /proc holds names that any user chooses: a unix socket's path may
// have blanks and line ends in it.
func FuzzProcTable(f *testing.F) {
	table, err := os.ReadFile("/proc/thread-self/net/unix")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(table[:min(len(table), 8<<10)]))
	f.Add("h\n0000: 00000002 00000000 00010000 0001 01 77 /run/shop.sock\n")
	f.Fuzz(func(t *testing.T, table string) {
		owners := map[uint64]uint32{}
		readUnix(strings.NewReader(table), "/run/shop.sock", owners)
		if len(owners) > 0 && !strings.Contains(table, "/run/shop.sock") {
			t.Error("an owner of a path that is not in the table")
		}
	})
}

// The record comes back from the fd store, names from systemd.
func FuzzPassed(f *testing.F) {
	f.Add(`{"orders":{"127.0.0.1:80":[2,0,1]},"stored":[1]}`, "http.1")
	f.Add(`{"orders":{"dual [::]:80":[]}}x`, "a.b.1023")
	f.Fuzz(func(t *testing.T, record, name string) {
		end := endpoint{addr: ipv4Loopback, port: 80}
		o := orders{read: parseOrders([]byte(record))}
		given := []*passed{{slot: 1}, {slot: 0}}
		o.sort(end, given)
		if given[0].slot+given[1].slot != 1 {
			t.Errorf("slots %d and %d", given[0].slot, given[1].slot)
		}
		if listener, slot, ok := storedName(name); ok && storeName(listener, slot) != name {
			t.Errorf("%q reads as %q and %d", name, listener, slot)
		}
	})
}
