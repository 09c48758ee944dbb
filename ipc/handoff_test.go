package ipc

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTransfer(t *testing.T) {
	full := bytes.Repeat([]byte("\n"), MaxState) // as the head's end
	for _, want := range []Transfer{
		{Seq: 1, Listener: "http", State: []byte{}},
		{Seq: 1 << 60, Listener: "unix:/run/\"a\nb\"", Own: true, State: full},
		{Withdrawn: true, State: []byte{}},
	} {
		packet, err := want.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseTransfer(packet)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Error(err, diff)
		}
	}
	for name, long := range map[string]Transfer{
		"state":    {State: append(full, 'x')},
		"listener": {Listener: strings.Repeat("x", MaxTransfer)},
	} {
		if _, err := long.Encode(); err == nil {
			t.Errorf("a %s that is too long is encoded", name)
		}
	}
	if packet, err := (Transfer{Seq: 7, Listener: "http", Own: true, State: []byte("s")}).Encode(); string(packet) != `{"seq":7,"listener":"http","own":true}`+"\ns" {
		t.Errorf("encoded %q, %v", packet, err)
	}
}

func TestReply(t *testing.T) {
	for want, packet := range map[Reply]string{
		{Seq: 7, Taken: true}: `{"seq":7,"taken":true}`,
		{Seq: 8}:              `{"seq":8,"taken":false}`,
	} {
		if got := string(want.Encode()); got != packet {
			t.Errorf("encoded %s", got)
		}
		if got, err := ParseReply([]byte(packet)); got != want || err != nil {
			t.Errorf("%+v, %v", got, err)
		}
	}
}

// Whatever comes, the result is an error or within bounds.
func FuzzTransfer(f *testing.F) {
	f.Add([]byte("{\"seq\":1,\"listener\":\"http\"}\nstate"))
	f.Add([]byte("{}\n"))
	f.Add([]byte("{}"))
	f.Add(append([]byte("{\"seq\":-1}\n"), make([]byte, MaxState+1)...))
	f.Fuzz(func(t *testing.T, packet []byte) {
		if got, err := ParseTransfer(packet); err == nil && (len(got.State) > MaxState || !bytes.HasSuffix(packet, got.State)) {
			t.Errorf("%q is %+v", packet, got)
		}
		_, _ = ParseReply(packet)
	})
}
