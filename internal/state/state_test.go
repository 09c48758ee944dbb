package state

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/forkd/forkd/internal/control"
)

const patience = time.Minute

// opened opens the state of an app that must be there.
func opened(t *testing.T, root string) (*State, Kept) {
	t.Helper()
	s, kept, bad, err := Open(root, "shop", func(err error) { t.Error(err) }, func() { t.Error("made again") })
	if err := errors.Join(bad, err); err != nil {
		t.Fatal(err)
	}
	return s, kept
}

func event(seq uint64, reason string) Record {
	return Record{Boot: "b", Event: &control.Event{Seq: seq, Time: time.Unix(int64(seq), 0).UTC(), Type: control.EventReady, Reason: reason}}
}

func read(t *testing.T) History {
	t.Helper()
	h, err := Read("shop")
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// reasons are those of a history's events.
func reasons(h History) (all []string) {
	for _, r := range h.Records {
		if r.Event != nil {
			all = append(all, r.Event.Reason)
		}
	}
	return all
}

// What one master appends and keeps, the next and readers find, in order.
func TestOutlives(t *testing.T) {
	root := t.TempDir()
	t.Setenv("FORKD_STATE_DIR", root)
	s, kept := opened(t, Root())
	if kept.Scaled != nil {
		t.Errorf("kept of nobody: %+v", kept)
	}
	s.Append(event(1, "one"))
	s.Append(Record{Boot: "b", Exit: &control.Exit{Slot: 3, PID: 7}, Output: func() []string { return []string{"a", "b"} }})
	s.Append(Record{Boot: "b", Roll: &control.RollRecord{Generation: 2, Result: "done"}})
	s.Keep(Kept{Scaled: &Scaled{Workers: 5, Of: 2}})
	s.Close(patience)
	s, kept = opened(t, Root())
	if diff := cmp.Diff(Kept{Schema: schema, Scaled: &Scaled{Workers: 5, Of: 2}}, kept); diff != "" {
		t.Error(diff)
	}
	s.Append(event(2, "two"))
	s.Close(patience)
	h := read(t)
	if diff := cmp.Diff([]string{"one", "two"}, reasons(h)); diff != "" || len(h.Notes) > 0 || h.Path != root+"/shop" {
		t.Errorf("%s %+v", diff, h)
	}
	if e := h.Records[1].Exit; e == nil || strings.Join(e.Output, " ") != "a b" || h.Records[2].Roll.Result != "done" {
		t.Errorf("%+v", h.Records)
	}
	if info, err := os.Stat(root + "/shop"); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

// The history is bounded, the newest kept.
func TestBounded(t *testing.T) {
	root := t.TempDir()
	t.Setenv("FORKD_STATE_DIR", root)
	s, _ := opened(t, root)
	long := strings.Repeat("x", 64<<10)
	for n := range 200 { // 12.5 MiB at once, as many workers' last lines are
		s.Append(event(uint64(n+1), fmt.Sprint(n, " ", long)))
	}
	s.Close(patience)
	size := int64(0)
	for _, name := range []string{historyName, olderName} {
		info, err := os.Stat(filepath.Join(root, "shop", name))
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	if size > 3*maxHistory {
		t.Errorf("%d bytes", size)
	}
	end, err := ReadEnd("shop")
	if last := reasons(end); err != nil || len(last) == 0 || len(last) > 4 || !strings.HasPrefix(last[len(last)-1], "199 ") || len(end.Notes) > 0 {
		t.Errorf("the end: %d events, %v, %v", len(last), end.Notes, err)
	}
	got := reasons(read(t))
	if len(got) < 60 || !strings.HasPrefix(got[len(got)-1], "199 ") {
		t.Errorf("%d events, the last %.10s", len(got), got[len(got)-1])
	}
}

// What is torn, of later, or no record at all is skipped, and said; the rest is read, and
// written behind.
func TestTorn(t *testing.T) {
	root := t.TempDir()
	t.Setenv("FORKD_STATE_DIR", root)
	s, _ := opened(t, root)
	s.Append(event(1, "one"))
	s.Close(patience)
	file, err := os.OpenFile(filepath.Join(root, "shop", historyName), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.WriteString(strings.Repeat("\x00", 3*maxRecord) + "\n{\"schema\":9,\"thing\":1}\nnonsense\n{\"schema\":1}\n{\"schema\":1,\"event\":{\"se")
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	s, _ = opened(t, root)
	s.Append(event(2, "two"))
	s.Close(patience)
	h := read(t)
	want := []string{historyName + ": 4 lines are torn or no records", historyName + ": 1 lines are of a later forkd: use that one to see them"}
	if diff := cmp.Diff([]string{"one", "two"}, reasons(h)) + cmp.Diff(want, h.Notes); diff != "" {
		t.Error(diff)
	}
}

// What is kept of another schema, cut short or no file counts for nothing; the app starts.
func TestBadKept(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"cut short": func(path string) error { return os.WriteFile(path, []byte(`{"schema":1,"scaled":{"work`), 0o600) },
		"empty":     func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"later": func(path string) error {
			return os.WriteFile(path, []byte(`{"schema":2,"scaled":3}`), 0o600)
		},
		"huge":      func(path string) error { return os.WriteFile(path, []byte(strings.Repeat(" ", maxKept+1)), 0o600) },
		"directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"link":      func(path string) error { return os.Symlink("/etc/passwd", path) },
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			if err := errors.Join(os.Mkdir(root+"/shop", 0o700), make(filepath.Join(root, "shop", keptName))); err != nil {
				t.Fatal(err)
			}
			s, kept, bad, err := Open(root, "shop", func(error) {}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if bad == nil || kept.Scaled != nil || name == "later" && !strings.Contains(bad.Error(), "schema 2") {
				t.Errorf("%+v, %v", kept, bad)
			}
			s.Close(patience)
		})
	}
}

// Two masters: the second keeps nothing.
func TestHeld(t *testing.T) {
	root := t.TempDir()
	s, _ := opened(t, root)
	_, _, _, err := Open(root, "shop", func(error) {}, nil)
	if held := (*HeldError)(nil); !errors.As(err, &held) {
		t.Errorf("%v", err)
	}
	s.Close(patience)
	s, _ = opened(t, root)
	s.Close(patience)
}

// A disk that hangs keeps no start waiting, and the next one finds the directory free.
func TestHangs(t *testing.T) {
	root := t.TempDir()
	s := &State{path: filepath.Join(root, "shop")}
	answer, answered := make(chan struct{}), make(chan struct{})
	_, bad, err := s.begin(func() error {
		defer close(answered)
		<-answer
		return s.open()
	}, time.Millisecond)
	if bad != nil || err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("%v, %v", bad, err)
	}
	close(answer)
	<-answered
	next, _ := opened(t, root)
	next.Close(patience)
}

// A directory that goes away, and a nil State, cost records, and nobody waits.
func TestLost(t *testing.T) {
	root := t.TempDir()
	t.Setenv("FORKD_STATE_DIR", root)
	said := make(chan error, 10)
	s, _, _, err := Open(root, "shop", func(err error) { said <- err }, nil)
	if err != nil {
		t.Fatal(err)
	}
	blocked := filepath.Join(root, "shop", historyName)
	if err := os.Mkdir(blocked, 0o700); err != nil {
		t.Fatal(err)
	}
	s.Append(event(1, "lost"))
	select {
	case <-said:
	case <-time.After(patience):
		t.Fatal("nobody says that nothing can be written")
	}
	if err := os.Remove(blocked); err != nil {
		t.Fatal(err)
	}
	for range maxWaiting + 10 {
		s.Append(event(2, "again"))
	}
	s.Append(event(3, "last"))
	s.Close(patience)
	h := read(t)
	if len(h.Records) == 0 || h.Records[0].Dropped < 1 {
		t.Errorf("%d records, the first %+v", len(h.Records), h.Records[0])
	}
	var none *State
	none.Append(event(1, ""))
	none.Keep(Kept{})
	none.Close(patience)
	if none.Path() != "" {
		t.Error("a path of nothing")
	}
}

// A directory that somebody removes, or moves away, while the master lives is made again, with
// what the next master starts from, at the latest at the next look.
func TestRemoved(t *testing.T) {
	root := t.TempDir()
	t.Setenv("FORKD_STATE_DIR", root)
	made := make(chan struct{}, 10)
	failed := func(err error) { t.Error(err) }
	s, _, _, err := Open(root, "shop", failed, func() { made <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	awaitMade := func() {
		t.Helper()
		select {
		case <-made:
		case <-time.After(patience):
			t.Fatal("it is not made again")
		}
	}
	s.Keep(Kept{Scaled: &Scaled{Workers: 5, Of: 2}})
	s.Close(patience)
	if s, _, _, err = Open(root, "shop", failed, func() { made <- struct{}{} }); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(root); err != nil { // its parent too
		t.Fatal(err)
	}
	s.Inspect()
	awaitMade()
	s.Append(event(1, "one"))
	s.Keep(Kept{Scaled: &Scaled{Workers: 6, Of: 2}})
	s.Close(patience)
	if s, _, _, err = Open(root, "shop", failed, func() { made <- struct{}{} }); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(root+"/shop", root+"/old"); err != nil {
		t.Fatal(err)
	}
	s.Append(event(2, "two"))
	awaitMade()
	if _, _, _, err := Open(root, "shop", failed, nil); !errors.As(err, new(*HeldError)) {
		t.Errorf("what was made again is not locked: %v", err)
	}
	s.Close(patience)
	s, kept := opened(t, root)
	s.Close(patience)
	if diff := cmp.Diff(&Scaled{Workers: 6, Of: 2}, kept.Scaled); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"two"}, reasons(read(t))); diff != "" {
		t.Error(diff)
	}
}

// Another user's directory, or a link that another user has made, is not used.
func TestForeign(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a directory away")
	}
	root := t.TempDir()
	t.Setenv("FORKD_STATE_DIR", root)
	ours := t.TempDir()
	if err := errors.Join(os.Mkdir(root+"/shop", 0o700), os.Chown(root+"/shop", 65534, 65534),
		os.Symlink(ours, root+"/led"), os.Lchown(root+"/led", 65534, 65534)); err != nil {
		t.Fatal(err)
	}
	for _, app := range []string{"shop", "led"} {
		if _, _, _, err := Open(root, app, func(error) {}, nil); err == nil {
			t.Errorf("%s is opened", app)
		}
	}
	if _, err := Read("nobody"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	// Nor is what others have put into one, while they could.
	write := func(name, text string) error {
		path := filepath.Join(root, "open", name)
		return errors.Join(os.WriteFile(path, []byte(text), 0o666), os.Chown(path, 65534, 65534))
	}
	if err := errors.Join(os.Mkdir(root+"/open", 0o700), os.Chmod(root+"/open", 0o777),
		write(keptName, `{"schema":1,"good":{"directory":"/"}}`), write(historyName, `{"schema":1,"event":{"type":"forged"}}`)); err != nil {
		t.Fatal(err)
	}
	if kept := Load(root, "open"); kept.Good != nil {
		t.Errorf("%+v", kept.Good)
	}
	said := make(chan error, 1)
	s, kept, bad, err := Open(root, "open", func(err error) { said <- err }, nil)
	if err != nil || kept.Good != nil || bad == nil {
		t.Fatalf("%+v, %v, %v", kept, bad, err)
	}
	s.Append(event(1, "ours"))
	if err := <-said; !strings.Contains(err.Error(), "belongs to uid 65534") {
		t.Error(err)
	}
	s.Close(patience)
	if h, err := Read("open"); err != nil || len(h.Records) > 0 || len(h.Notes) != 1 {
		t.Errorf("%+v, %v", h, err)
	}
	if left, err := os.ReadDir(ours); err != nil || len(left) > 0 {
		t.Errorf("%v %v", left, err)
	}
}
