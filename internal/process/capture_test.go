package process

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Whoever may, leaves setuid programs what they are.
func TestCapture(t *testing.T) {
	c := newChildren(t)
	other := &Credential{UID: nobody, GID: nobody}
	for _, test := range []struct {
		name   string
		master *Credential // of a master of its own
		worker *Credential
		limits string
	}{
		{"root", nil, nil, "0"},
		{"another user", nil, other, "0"},
		{"master without privileges", other, nil, "1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			spec := catStatus()
			spec.Capture, spec.User, spec.Files = true, test.worker, []int{0, 1, 2}
			w := start(t, c, master(t, job{Spec: spec}, test.master))
			text := w.rest(t)
			if !strings.Contains(text, "captured true \n") {
				t.Errorf("the master says: %s", text)
			}
			got := status(text)
			if got["Seccomp"] != "2" || got["Seccomp_filters"] != "1" || got["NoNewPrivs"] != test.limits {
				t.Errorf("mode %s, %s filters, no new privileges %s, want 2, 1, %s", got["Seccomp"], got["Seccomp_filters"], got["NoNewPrivs"], test.limits)
			}
		})
	}
}

func TestCaptureIsNotAsked(t *testing.T) {
	w := start(t, newChildren(t), catStatus())
	if fd, why := w.Capture(); fd != -1 || why != "" {
		t.Errorf("a listener %d, %q", fd, why)
	}
	if got := status(w.rest(t)); got["Seccomp"] != "0" || got["NoNewPrivs"] != "0" {
		t.Errorf("mode %s, no new privileges %s", got["Seccomp"], got["NoNewPrivs"])
	}
}

// The program runs where its calls can't be captured.
func TestCaptureIsRefused(t *testing.T) {
	spec := shell("echo runs")
	spec.Capture, spec.Files = true, []int{0, 1, 2}
	w := start(t, newChildren(t), master(t, job{Spec: spec, Prepare: []string{"captured"}}, nil))
	text := w.rest(t)
	if !strings.Contains(text, "captured false another supervisor or container engine already answers this program's calls\n") || !strings.Contains(text, "runs\n") {
		t.Errorf("the master says: %s", text)
	}
	for errno, want := range map[unix.Errno]string{unix.ENOSYS: "forbids seccomp(2)", unix.EPERM: "forbids seccomp(2)", unix.EINVAL: "Linux 5.9", unix.ENOMEM: "cannot allocate memory"} {
		if got := explainFilter(errno); !strings.Contains(got, want) {
			t.Errorf("%v: %s", errno, got)
		}
	}
}

// A listener of a program that did not start is closed.
func TestCaptureOfNoProgram(t *testing.T) {
	c := newChildren(t)
	before := usedDescriptors(t)
	for range 3 {
		_, err := c.Start(Spec{Path: "/nonexistent", Args: []string{"x"}, Umask: -1, Capture: true})
		failed, ok := errors.AsType[*StartError](err)
		if !ok || failed.Errno != unix.ENOENT || !failed.Final {
			t.Fatal(err)
		}
	}
	if after := usedDescriptors(t); after != before {
		t.Errorf("%d descriptors, then %d", before, after)
	}
}

func TestResult(t *testing.T) {
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	one := int(null.Fd())
	filter, sent, exec := uint32(0), uint32(1), uint32(2)
	p := &plan{calls: []call{{doing: capturing, later: 2}, {doing: capturing}, {doing: executing}}}
	for _, test := range []struct {
		said []report
		fds  []int
		want string
	}{
		{nil, nil, "false   errno 0 <nil>"},
		{[]report{{sent, 0}}, []int{one}, "true   errno 0 <nil>"},
		{[]report{{sent, 0}, {exec, 2}}, []int{one}, "false  execute it no such file or directory <nil>"},
		{[]report{{sent, 0}}, []int{one, one}, "true   errno 0 <nil>"}, // one is kept
		{[]report{{sent, 0}}, nil, "false   errno 0 no descriptor is left for the listener of its calls: raise the limit on open files (LimitNOFILE= in a unit, ulimit -n)"},
		{[]report{{filter, 22}}, nil, "false this kernel has no seccomp user notification: Linux 5.9 and later have it  errno 0 <nil>"},
		{[]report{{filter, 22}, {exec, 2}}, nil, "false this kernel has no seccomp user notification: Linux 5.9 and later have it execute it no such file or directory <nil>"},
	} {
		before := usedDescriptors(t)
		r, w, err := statusPair()
		if err != nil {
			t.Fatal(err)
		}
		var rights []byte
		if len(test.fds) > 0 {
			rights = unix.UnixRights(test.fds...)
		}
		for _, said := range test.said {
			text := unsafe.Slice((*byte)(unsafe.Pointer(&said)), reportSize)
			if err := unix.Sendmsg(int(w.Fd()), text, rights, nil, 0); err != nil {
				t.Fatal(err)
			}
			rights = nil
		}
		w.Close()
		got, err := p.readResult(r)
		r.Close()
		doing := ""
		if got.failed != nil {
			doing = got.failed.doing
		}
		if text := fmt.Sprintf("%t %s %s %v %v", got.listener >= 0, got.why, doing, got.errno, err); text != test.want {
			t.Errorf("%v with %d descriptors: %s, want %s", test.said, len(test.fds), text, test.want)
		}
		got.close()
		if after := usedDescriptors(t); after != before {
			t.Errorf("%v with %d descriptors: %d are open, then %d", test.said, len(test.fds), before, after)
		}
	}
}
