package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/forkd/forkd/internal/advise"
	"github.com/forkd/forkd/internal/fleet"
)

func TestAdviceFits80Columns(t *testing.T) {
	var names []string
	for i := range 100 {
		names = append(names, fmt.Sprintf("a-host-with-a-long-name-%04d.example", i))
	}
	v := adviceView{App: "shop", Advice: advise.Advice{
		Hosts: 120, HostsWanted: 20, Coming: 3, Add: 2, Direction: advise.In, Until: new(time.Now()),
		Reason: "utilization 12% is under 25%: 14400 connections on 120 hosts of 1000; with 20 hosts it is 72%; 1 host takes no part: evil\x1b[2J\nhost",
		Drain:  names, Resume: names[:1], Remove: names[:2], Shed: []advise.Shed{{Host: names[0], Count: 300, Seconds: 30}},
	}}
	text := strings.Join(v.lines(screen{width: 80}, "12:00:00 "), "\n")
	for line := range strings.Lines(text) {
		if columnsOf(strings.TrimSuffix(line, "\n")) > 80 {
			t.Errorf("wider than 80 columns: %q", line)
		}
	}
	for _, part := range []string{
		"12:00:00 shop: 120 hosts, 20 wanted, 3 coming, in\n  utilization 12% is under 25%", "evil[2J host", "\n  resume  " + names[0] + "\n", "and 92 more\n",
		"\n  shed    " + names[0] + ": 300 connections in 30s\n", "\n  add     2 hosts\n", "\n  until   ",
	} {
		if !strings.Contains(text, part) {
			t.Errorf("%q is not in\n%s", part, text)
		}
	}
	if strings.Contains(text, "\x1b") {
		t.Errorf("%q", text)
	}
}

func TestPolicyFlags(t *testing.T) {
	for args, want := range map[string]string{
		"--max-utilization-percent 0":         "--max-utilization-percent 0: use 1 to 100",
		"--min-hosts 5 --max-hosts 4":         "--max-hosts 4: use 5, the minimum, to 100000",
		"--drain-timeout 1ms":                 "--drain-timeout 1ms: use 1s to 168h0m0s",
		"--overutilized-tolerance-percent 90": "--overutilized-tolerance-percent 90: use 0 to 25: with the maximum it is at most 100",
		"--exec true":                         "--exec and --act need -f: see forkd fleet advise --help",
		"-f --exec true --exec-timeout 0":     "--exec-timeout 0s: use 1s to 1h",
	} {
		std, printed := printing(t)
		code := run(t.Context(), append([]string{"fleet", "advise", "shop", "--redis", "redis://127.0.0.1:1"}, strings.Fields(args)...), std)
		if code != exitUsage || printed() != "forkd: "+want+"\n" {
			t.Errorf("%s: %d %q", args, code, printed())
		}
	}
	for _, field := range []string{"connection-limit-per-host", "max-utilization-percent", "min-utilization-percent", "overutilized-tolerance-percent", "underutilized-tolerance-percent", "min-hosts", "max-hosts", "out-cooldown", "in-cooldown", "start-timeout", "drain-timeout", "shed-per-second"} {
		if fleetAdviseCommand(stdio{}).Flags().Lookup(field) == nil {
			t.Errorf("%s has no flag", field)
		}
	}
}

// fakeAdviser is a leader without a Redis.
type fakeAdviser struct {
	mu     sync.Mutex
	err    error
	advice advise.Advice
	news   bool
	until  time.Time
	follow bool // another one leads
	hosts  []fleet.Host

	told []advise.Told
	sent []string // "OP HOST"
	left bool
}

// with calls use while nobody else uses the fake.
func (f *fakeAdviser) with(use func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	use()
}

func (f *fakeAdviser) Look(context.Context) (fleet.Fleet, advise.Advice, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.until = time.Now().Add(10 * time.Second)
	}
	return fleet.Fleet{App: "shop", At: time.Now(), Hosts: f.hosts}, f.advice, f.err
}

func (f *fakeAdviser) Leads() (time.Time, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.until, !f.follow && time.Now().Before(f.until)
}

func (f *fakeAdviser) Leader() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return map[bool]string{true: "other", false: "me"}[f.follow]
}

func (f *fakeAdviser) Token() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return map[bool]string{false: "7"}[f.follow]
}

func (f *fakeAdviser) News(advise.Advice) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.news
}

func (*fakeAdviser) Telling(a advise.Advice) advise.Told { return advise.Told{Wanted: a.HostsWanted} }

func (f *fakeAdviser) Told(_ context.Context, told advise.Told) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told, f.news = append(f.told, told), false
	return nil
}

func (f *fakeAdviser) Send(_ context.Context, host string, c fleet.Command) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent = append(f.sent, c.Op+" "+host)
	if c.Check() != nil || c.CheckID() != nil || !c.ExpiresAt.After(time.Now()) {
		return errors.New("that is no command")
	}
	return nil
}

func (f *fakeAdviser) Leave(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left = true
	return nil
}

// following starts to follow a fake until the end of the test.
func following(t *testing.T, from *fakeAdviser, r *adviseRun) (printed func() string, end func()) {
	t.Helper()
	std, printed := printing(t)
	r.out, r.err, r.from, r.app, r.where = output{to: std.out, what: "advice"}, std.err, from, "shop", "redis://x"
	r.sent, r.deaf = map[string]time.Time{}, map[string]bool{}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.run(ctx) }()
	synctest.Wait()
	return printed, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if !from.left {
			t.Errorf("it has not said that it leaves")
		}
	}
}

// pass lets time pass.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestAdviceIsPrintedWhenItChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := &fakeAdviser{advice: advise.Advice{Hosts: 2, HostsWanted: 2, Reason: "all is well"}}
		printed, end := following(t, from, &adviseRun{})
		pass(time.Minute)
		from.with(func() { from.advice.Reason = "all is well still" })
		pass(time.Minute)
		from.with(func() { from.err = errors.New("connection refused") })
		pass(time.Minute)
		from.with(func() { from.err, from.advice.HostsWanted, from.advice.Reason = nil, 3, "more is wanted" })
		pass(time.Minute)
		from.with(func() { from.follow = true })
		pass(time.Minute)
		end()
		clock := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Local()
		want := "forkd: this one leads: me\n" + clock.Format(time.TimeOnly) + " shop: 2 hosts, 2 wanted\n  all is well\n" +
			"forkd: redis://x: connection refused: is Redis running there?; it is tried again\n"
		got := printed()
		rest, ok := strings.CutPrefix(got, want)
		if !ok || !strings.HasSuffix(rest, " shop: 2 hosts, 3 wanted\n  more is wanted\nforkd: another one leads: other\n") || strings.Count(rest, "\n") != 3 {
			t.Errorf("%s", got)
		}
	})
}

func TestAdviceFirstLookFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := adviseRun{from: &fakeAdviser{err: errors.New("NOAUTH")}}
		if err := r.run(t.Context()); err == nil || err.Error() != "NOAUTH" {
			t.Error(err)
		}
	})
}

// Hosts get what they have not done yet again, once the last command has expired; those
// that don't obey are said, once.
func TestAdviceIsActedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := func(id string, obeys bool) fleet.Host {
			return fleet.Host{ID: id, Control: &obeys, Interval: new(2.0)}
		}
		from := &fakeAdviser{
			hosts: []fleet.Host{host("a", true), host("b", true), host("c", true), host("deaf", false)},
			advice: advise.Advice{
				Drain: []string{"a", "deaf", "gone"}, Resume: []string{"b"}, Shed: []advise.Shed{{Host: "c", Count: 5, Seconds: 7}},
			},
		}
		printed, end := following(t, from, &adviseRun{act: true})
		from.with(func() { from.advice.Shed = nil })
		pass(29 * time.Second)
		sent := func(want string) {
			t.Helper()
			from.with(func() {
				if got := strings.Join(from.sent, ", "); got != want {
					t.Errorf("sent %s", got)
				}
			})
		}
		sent("resume b, drain a, shed c")
		from.with(func() { from.advice.Drain = from.advice.Drain[1:] })
		pass(4 * time.Second)
		sent("resume b, drain a, shed c, resume b")
		from.with(func() { from.follow = true })
		pass(time.Minute)
		sent("resume b, drain a, shed c, resume b") // one who does not lead sends nothing
		end()
		if got := printed(); strings.Count(got, "deaf does not obey: set redis.control = true there") != 1 {
			t.Errorf("%s", got)
		}
	})
}

// One hook runs at a time; one that fails is run again, ever later; it is told what was
// news when it began.
func TestHookIsRunAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := &fakeAdviser{news: true, advice: advise.Advice{HostsWanted: 3}}
		var began []time.Duration
		start := time.Now()
		var fail atomic.Bool
		fail.Store(true)
		printed, end := following(t, from, &adviseRun{hook: func(context.Context, *adviceView) error {
			from.with(func() { began = append(began, time.Since(start)) })
			time.Sleep(3 * time.Second)
			if fail.Load() {
				return errors.New("exit status 1")
			}
			return nil
		}})
		pass(time.Second)
		from.with(func() { from.advice.HostsWanted = 4 })
		pass(59 * time.Second)
		from.with(func() {
			if got := fmt.Sprint(began); got != "[0s 8s 22s 46s]" {
				t.Errorf("began %v", got)
			}
		})
		fail.Store(false)
		pass(time.Minute)
		from.with(func() {
			if len(from.told) != 1 || from.told[0].Wanted != 4 || len(began) != 5 {
				t.Errorf("told %v, %d runs", from.told, len(began))
			}
			from.news = true
		})
		pass(2 * time.Second)
		from.with(func() { from.advice.HostsWanted = 5 })
		pass(10 * time.Second)
		from.with(func() {
			if len(from.told) != 2 || from.told[1].Wanted != 4 {
				t.Errorf("told %v", from.told)
			}
		})
		end()
		if got := printed(); strings.Count(got, "forkd: --exec: exit status 1: it is run again in ") != 4 || !strings.Contains(got, "again in 40s") {
			t.Errorf("%s", got)
		}
	})
}

// A hook does not outlive the leadership, nor the one who leads.
func TestHookEndsWithTheLeadership(t *testing.T) {
	for name, lose := range map[string]func(*fakeAdviser){
		"another one leads": func(f *fakeAdviser) { f.follow = true },
		"Redis is away":     func(f *fakeAdviser) { f.err = errors.New("i/o timeout") },
		"it ends":           nil,
	} {
		synctest.Test(t, func(t *testing.T) {
			from := &fakeAdviser{news: true}
			var ended atomic.Bool
			printed, end := following(t, from, &adviseRun{hook: func(ctx context.Context, _ *adviceView) error {
				<-ctx.Done()
				ended.Store(true)
				return ctx.Err()
			}})
			pass(20 * time.Second)
			if ended.Load() {
				t.Fatalf("%s: it has ended", name)
			}
			if lose != nil {
				from.with(func() { lose(from) })
				pass(11 * time.Second)
				if !ended.Load() {
					t.Errorf("%s: it goes on", name)
				}
			}
			end()
			if !ended.Load() || len(from.told) > 0 || !strings.Contains(printed(), "forkd: --exec was killed") {
				t.Errorf("%s: %s", name, printed())
			}
		})
	}
}

func TestHook(t *testing.T) {
	dir := t.TempDir()
	v := &adviceView{App: "shop", Token: "7", Advice: advise.Advice{
		Hosts: 3, HostsWanted: 5, Coming: 1, Add: 1, Connections: 2700, Capacity: new(int64(3000)), Utilization: new(90.0), Direction: advise.Out,
		Reason: "a\x00b\n", Drain: []string{"web-1", "web-2"}, Remove: []string{},
	}}
	for name, of := range map[string]struct {
		command string
		within  time.Duration
		err     string
		out     []string
	}{
		"environment": {command: `env | grep ^FORKD_ADVICE_`, out: []string{
			"APP=shop", "TOKEN=7", "DIRECTION=out", "HOSTS=3", "HOSTS_WANTED=5", "COMING=1", "ADD=1", "CONNECTIONS=2700", "CAPACITY=3000",
			"UTILIZATION=90.0", "DRAIN=web-1 web-2", "REMOVE=", "RESUME=", "REASON=ab ",
		}},
		"stdin":      {command: `grep -o '"hosts_wanted":5'`, out: []string{`"hosts_wanted":5`}},
		"no reader":  {command: `exec <&-; echo done`, out: []string{"done"}},
		"fails":      {command: `echo no >&2; exit 3`, err: "exit status 3", out: []string{"no"}},
		"hangs":      {command: `sleep 1000 & echo $! >hung; wait`, within: 300 * time.Millisecond, err: "it took longer than 300ms, and was killed"},
		"leaves one": {command: `sleep 1000 & echo $! >left`},
		"talks":      {command: `head -c 1000000 /dev/zero | tr '\0' x; printf '\nlast\033[2J\n'`, out: []string{"991818 bytes of its output are not shown", "last[2J"}},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			h := hook{command: "cd " + dir + " && { " + of.command + "\n}", within: of.within, out: &out}
			if h.within == 0 {
				h.within = time.Minute
			}
			err := h.run(t.Context(), v)
			if text := fmt.Sprint(err); err == nil && of.err != "" || err != nil && text != of.err {
				t.Errorf("%v", err)
			}
			lines := "\n" + strings.ReplaceAll(strings.ReplaceAll(out.String(), "forkd: --exec: ", ""), "FORKD_ADVICE_", "")
			for _, line := range of.out {
				if !strings.Contains(lines, "\n"+line+"\n") {
					t.Errorf("%q is not in %.1000q", line, lines)
				}
			}
			if out.Len() > 2*mostOutput || strings.Contains(out.String(), "\x1b") {
				t.Errorf("%d bytes: %.100q", out.Len(), out.String())
			}
		})
	}
	reap(t, pidIn(t, filepath.Join(dir, "hung")))
	left := pidIn(t, filepath.Join(dir, "left"))
	if !alive(left) {
		t.Errorf("what a hook has left behind was killed")
	}
	_ = syscall.Kill(left, syscall.SIGKILL)
	reap(t, left)
}

// reap waits for the end of a process that has lost its parent: this process is the parent
// then, or one that reaps.
func reap(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(scriptTimeout); alive(pid); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("process %d lives on", pid)
		}
	}
	_, _ = syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
}

func pidIn(t *testing.T, file string) int {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// alive reports whether a process is there, and is no zombie that nobody reaps.
func alive(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(text), ") Z ")
}

// What a hook runs ends with an adviser that is killed: the next one runs its own.
func TestHookOfKilled(t *testing.T) {
	const within = "FORKD_TEST_HOOK_DIR"
	if dir := os.Getenv(within); dir != "" { // the adviser
		h := hook{command: "cd " + dir + " && { sleep 600 & echo $! >child; echo $$ >shell; wait; }", within: time.Hour, out: io.Discard}
		t.Fatal(h.run(t.Context(), &adviceView{App: "shop"}))
	}
	dir := t.TempDir()
	adviser := exec.Command(os.Args[0], "-test.run=^TestHookOfKilled$")
	adviser.Env = append(os.Environ(), within+"="+dir)
	if err := adviser.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(scriptTimeout); ; time.Sleep(10 * time.Millisecond) {
		if text, _ := os.ReadFile(filepath.Join(dir, "shell")); strings.HasSuffix(string(text), "\n") { // no program writes it, that nobody would reap
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the hook does not start")
		}
	}
	shell, child := pidIn(t, filepath.Join(dir, "shell")), pidIn(t, filepath.Join(dir, "child"))
	group, err := syscall.Getpgid(shell)
	if err != nil {
		t.Fatal(err)
	}
	_ = adviser.Process.Kill()
	_ = adviser.Wait()
	defer func() { _ = syscall.Kill(-group, syscall.SIGKILL) }() // what is left when this fails
	for _, pid := range []int{shell, child, group} {
		reap(t, pid)
	}
}

// A list that is too long for a variable is cut between two names.
func TestHookVariables(t *testing.T) {
	names := slices.Repeat([]string{strings.Repeat("x", 128)}, 5000)
	got := joined(names)
	if len(got) > mostVariable || len(got) < mostVariable-200 || strings.Trim(strings.ReplaceAll(got, names[0], ""), " ") != "" {
		t.Errorf("%d bytes", len(got))
	}
}

// The script of docs/scaling.md does what it says.
func TestDocumentHook(t *testing.T) {
	text, err := os.ReadFile("../../docs/scaling.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "<!-- hosts.sh:")
	_, after, _ = strings.Cut(after, "```sh\n")
	script, _, found := strings.Cut(after, "```")
	if !found {
		t.Fatal("docs/scaling.md has no hosts.sh")
	}
	dir := t.TempDir()
	for name, content := range map[string]string{"hosts.sh": script, "hcloud": "#!/bin/sh\necho \"$*\"\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o700); err != nil { //nolint:gosec // to be executed
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	var out strings.Builder
	h := hook{command: "exec hosts.sh", within: time.Minute, out: &out}
	v := &adviceView{App: "shop", Token: "7", Advice: advise.Advice{Add: 2, Remove: []string{"web-1", "web-2"}}}
	if err := h.run(t.Context(), v); err != nil {
		t.Errorf("%v: %s", err, out.String())
	}
	want := regexp.MustCompile(`^forkd: --exec: server create --name shop-7-\d+-0 --type cx22 --image shop --label app=shop
forkd: --exec: server create --name shop-7-\d+-1 --type cx22 --image shop --label app=shop
forkd: --exec: server delete web-1
forkd: --exec: server delete web-2
$`)
	if !want.MatchString(out.String()) {
		t.Errorf("%s", out.String())
	}
}
