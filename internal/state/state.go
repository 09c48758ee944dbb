package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/control"
)

// The files in STATE/APP.
const (
	historyName = "history.jsonl" // the newest; a JSON Record per line
	olderName   = "history.1.jsonl"
	keptName    = "state.json"
	lockName    = "lock"
)

const (
	schema     = 1       // of both files
	maxHistory = 4 << 20 // bytes of a history file
	maxKept    = 1 << 20 // bytes of state.json
	maxWaiting = 1024    // records that wait to be written; one more is dropped

	// maxTogether is how many are written at once. An exit takes 200 KiB, where its output is
	// all control characters: a file then has less than 2*maxHistory, which is read.
	maxTogether = 16

	// gatherTime is how long records are gathered: one write and one fsync for many, and
	// the last lines of a worker that has just ended have come.
	gatherTime = 200 * time.Millisecond

	openTimeout = 10 * time.Second // flock's included
)

// Record is a line of the history: one of the three is set.
type Record struct {
	Schema  int                 `json:"schema"`
	Boot    string              `json:"boot"`              // names the master's life
	Dropped int                 `json:"dropped,omitempty"` // records before this one that could not be written
	Event   *control.Event      `json:"event,omitempty"`
	Exit    *control.Exit       `json:"exit,omitempty"`
	Roll    *control.RollRecord `json:"roll,omitempty"`

	// Output gives the exit's last lines when the record is written. Any goroutine calls it.
	Output func() []string `json:"-"`
}

// Kept is what the next master starts from.
type Kept struct {
	Schema  int      `json:"schema"`
	Scaled  *Scaled  `json:"scaled,omitempty"`
	Good    *Release `json:"good,omitempty"`    // the last that served
	Refused *Release `json:"refused,omitempty"` // the last that did not
}

// Scaled is a number of slots that was set by hand, and the file's own then.
type Scaled struct {
	Workers int `json:"workers"`
	Of      int `json:"of"`
}

// Release is what a generation ran.
type Release struct {
	Directory     string          `json:"directory"` // resolved
	Executable    string          `json:"executable"`
	Configuration json.RawMessage `json:"configuration,omitempty"` // as who keeps it writes it
	At            time.Time       `json:"at"`
}

// State is a master's state directory. Its methods do not block, but for Close.
type State struct {
	dir  *os.Root
	lock *os.File
	path string

	mu      sync.Mutex
	waiting []Record
	dropped int
	kept    *Kept // to be written; nil: it is there
	wake    chan struct{}
	look    chan struct{} // whether the directory is still there

	closing  chan struct{}
	closed   chan struct{}
	failed   func(error) // called by the writer, for the first error in a row
	restored func()      // called by the writer
	torn     bool        // the last line was not written whole
	last     *Kept       // what was kept last; the writer's. nil: nothing
	unkept   bool        // and it is not written
}

// HeldError says that another master has the state directory.
type HeldError struct{ Path string }

func (e *HeldError) Error() string {
	return fmt.Sprintf("another master writes to %s: set FORKD_STATE_DIR for one of them", e.Path)
}

// Open opens an app's state directory, for the only master that writes to it, and reads
// what the last one kept. The error is a *HeldError where another master has it; bad is what
// was wrong with the file that was kept: nothing of it counts. From another goroutine, failed
// is told why nothing can be written, once until it can again, and restored that somebody has
// removed the directory, and it was made again.
func Open(root, app string, failed func(error), restored func()) (s *State, kept Kept, bad, err error) {
	s = &State{
		path: filepath.Join(root, app), failed: failed, restored: restored, wake: make(chan struct{}, 1), look: make(chan struct{}, 1),
		closing: make(chan struct{}), closed: make(chan struct{}),
	}
	kept, bad, err = s.begin(s.open, openTimeout)
	if err != nil {
		return nil, Kept{}, nil, err
	}
	return s, kept, bad, nil
}

// begin opens and reads the directory and starts the writer, on a goroutine: a disk may hang.
func (s *State) begin(open func() error, timeout time.Duration) (Kept, error, error) {
	type result struct {
		kept     Kept
		bad, err error
	}
	opened, late := make(chan result), make(chan struct{})
	go func() {
		var r result
		if r.err = open(); r.err == nil {
			r.kept, r.bad = readKept(s.dir)
			if last := r.kept; last.Schema != 0 {
				s.last = &last
			}
		}
		select {
		case opened <- r:
			if r.err == nil {
				s.write()
			}
		case <-late:
			s.shut()
		}
	}()
	select {
	case r := <-opened:
		return r.kept, r.bad, r.err
	case <-time.After(timeout):
		close(late)
		return Kept{}, nil, fmt.Errorf("%s does not answer within %v", s.path, timeout)
	}
}

// open makes what is missing of the directory, and locks it.
func (s *State) open() error {
	dir, err := openDir(s.path, true)
	if err != nil {
		return err
	}
	lock, err := dir.OpenFile(lockName, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err == nil {
		if err = flock(int(lock.Fd())); err != nil {
			lock.Close()
		}
	}
	if err != nil {
		dir.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = &HeldError{s.path}
		}
		return err
	}
	s.shut()
	s.dir, s.lock = dir, lock
	s.torn = true // a line end first: the last master may have been killed in a line
	return nil
}

// gone reports whether the path leads to the open directory no more.
func (s *State) gone() bool {
	named, err := os.Stat(s.path)
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	opened, err := s.dir.Stat(".")
	return err == nil && !os.SameFile(named, opened)
}

// flock locks, and waits a little for a master that is about to end, or for a child of a killed
// one that has not called execve(2) yet.
func flock(fd int) (err error) {
	const patience, interval = time.Second, 10 * time.Millisecond
	for began := time.Now(); ; time.Sleep(interval) {
		err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Since(began) > patience {
			return err
		}
	}
}

// Path returns STATE/APP; "" of nil.
func (s *State) Path() string {
	if s == nil {
		return ""
	}
	return s.path
}

// Append adds a record to the history. nil keeps nothing.
func (s *State) Append(r Record) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) >= maxWaiting {
		s.dropped++
		return
	}
	r.Schema, r.Dropped = schema, s.dropped
	s.dropped = 0
	s.waiting = append(s.waiting, r)
	s.wakeUp()
}

// Keep replaces what the next master starts from. nil keeps nothing.
func (s *State) Keep(k Kept) {
	if s == nil {
		return
	}
	k.Schema = schema
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept = &k
	s.wakeUp()
}

func (s *State) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Inspect has the directory made again if somebody has removed it.
func (s *State) Inspect() {
	if s == nil {
		return
	}
	select {
	case s.look <- struct{}{}:
	default:
	}
}

// Close writes what waits, for at most so long, and closes the directory.
func (s *State) Close(timeout time.Duration) {
	if s == nil {
		return
	}
	close(s.closing)
	select {
	case <-s.closed:
	case <-time.After(timeout): // a disk that hangs: its descriptors go with the process
	}
}

func (s *State) shut() {
	if s.dir != nil {
		s.lock.Close()
		s.dir.Close()
	}
}

// write is the goroutine that writes.
func (s *State) write() {
	defer close(s.closed)
	defer s.shut()
	fine := true
	for last := false; !last; {
		select {
		case <-s.wake:
		case <-s.look:
			if !s.gone() {
				continue
			}
		case <-s.closing:
			last = true
		}
		if !last {
			select {
			case <-time.After(gatherTime):
			case <-s.closing:
			}
		}
		s.mu.Lock()
		records, kept := s.waiting, s.kept
		s.waiting, s.kept = nil, nil
		s.mu.Unlock()
		err := s.flush(records, kept)
		if err != nil && fine {
			s.failed(err)
		}
		fine = err == nil
	}
}

// flush writes records, then what is kept, each with an fsync. Records that can't be written
// count as dropped; what is kept is tried again.
func (s *State) flush(records []Record, kept *Kept) error {
	if kept != nil {
		s.last, s.unkept = kept, true
	}
	var failures []error
	if s.gone() {
		if err := s.open(); err != nil {
			failures = append(failures, err)
		} else {
			s.unkept = s.last != nil
			s.restored()
		}
	}
	for len(records) > 0 {
		n := min(len(records), maxTogether)
		if err := s.appendAll(records[:n]); err != nil {
			failures = append(failures, err)
			s.mu.Lock()
			s.dropped += len(records)
			s.mu.Unlock()
			break
		}
		records = records[n:]
	}
	if s.unkept {
		err := s.replaceKept(s.last)
		if s.unkept = err != nil; s.unkept {
			failures = append(failures, err)
		}
	}
	return errors.Join(failures...)
}

func (s *State) appendAll(records []Record) error {
	var text strings.Builder
	if s.torn {
		text.WriteByte('\n')
	}
	for _, r := range records {
		if r.Output != nil && r.Exit != nil {
			exit := *r.Exit
			exit.Output, r.Exit = r.Output(), &exit
		}
		line, err := json.Marshal(r)
		if err != nil {
			return err
		}
		text.Write(line)
		text.WriteByte('\n')
	}
	file, size, err := regular(s.dir, historyName, os.O_WRONLY|os.O_APPEND|os.O_CREATE)
	if err != nil {
		return err
	}
	defer file.Close()
	if size > maxHistory {
		if err := s.dir.Rename(historyName, olderName); err != nil {
			return err
		}
		file.Close()
		if file, err = s.dir.OpenFile(historyName, os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
			return err
		}
		defer file.Close()
	}
	s.torn = true
	if _, err := io.WriteString(file, text.String()); err != nil {
		return err
	}
	s.torn = false
	return file.Sync()
}

func (s *State) replaceKept(k *Kept) error {
	text, err := json.MarshalIndent(k, "", "  ")
	if err != nil {
		return err
	}
	temporary := keptName + ".new"
	if err := s.dir.Remove(temporary); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	file, err := s.dir.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(append(text, '\n'))
	err = errors.Join(err, file.Sync(), file.Close())
	if err == nil {
		err = s.dir.Rename(temporary, keptName)
	}
	return err
}
