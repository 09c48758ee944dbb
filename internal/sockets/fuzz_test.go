package sockets

import (
	"net/netip"
	"os"
	"strings"
	"testing"
)

// The tables of /proc hold names that any user chooses: a unix socket's path may
// have blanks and line ends in it.
func FuzzProcTables(f *testing.F) {
	for _, name := range []string{"tcp", "tcp6", "unix"} {
		table, err := os.ReadFile("/proc/thread-self/net/" + name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(table[:min(len(table), 8<<10)]))
	}
	f.Add("h\n0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 77 1 0 100 0 0 10 0\n")
	f.Add("h\n0000: 00000002 00000000 00010000 0001 01 77 /run/shop.sock\n")
	f.Fuzz(func(t *testing.T, table string) {
		for _, addr := range []netip.Addr{ipv4Loopback, netip.IPv6Unspecified()} {
			owners := map[uint64]uint32{}
			readTCP(strings.NewReader(table), endpoint{addr: addr, port: 8080}, owners)
			if _, zero := owners[0]; zero {
				t.Error("an owner without an inode")
			}
		}
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
