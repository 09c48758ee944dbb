package output

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// maxKept bounds what a Log keeps in memory, in bytes: all slots have the same part of it,
// at least minHalf and at most maxHalf twice.
const (
	maxKept = 4 << 20
	minHalf = 4 << 10
	maxHalf = 64 << 10
)

// A Log is an app's log: the newest lines of each slot, and where all lines go: nowhere,
// until ForwardTo, JournalTo or KeepIn are called, before the first line. It is safe for
// concurrent use.
type Log struct {
	writers []*Writer // take the workers' lines, as records
	own     []*Writer // of these: take the master's too
	files   *Files    // nil: none

	mu    sync.Mutex
	clock clock
	rings map[int]*ring // by slot, -1 for what is of none
	more  chan struct{} // closed with the next line; nil: nobody waits
	batch []byte        // of add, empty

	captures sync.WaitGroup
	pipes    map[deadliner]bool // that are captured
}

// deadliner is a file whose Read can be ended.
type deadliner interface{ SetReadDeadline(at time.Time) error }

// lastRead is how long Close waits for what the last workers have written, where somebody
// holds their pipes.
const lastRead = 100 * time.Millisecond

// ForwardTo has the workers' lines written to one of the master's outputs, each as
// "APP.SLOT | TEXT". A terminal gets nothing that it obeys, but colours.
func (l *Log) ForwardTo(to io.Writer, app string, terminal bool) {
	f := &forward{to: to, prefix: app + "."}
	if terminal {
		f.sequences = ControlSequences()
	}
	l.writeTo(f)
}

// JournalTo has all lines sent to systemd's journal.
func (l *Log) JournalTo(j *Journal) { l.own = append(l.own, l.writeTo(j)) }

// KeepIn has all lines written to files, which the Log closes.
func (l *Log) KeepIn(files *Files) {
	l.files = files
	l.own = append(l.own, l.writeTo(files))
}

func (l *Log) writeTo(to io.Writer) *Writer {
	w := newWriter(to, func(dropped int) []byte {
		l.mu.Lock()
		defer l.mu.Unlock()
		text := fmt.Appendf(nil, "%d lines dropped: this output was stuck", dropped)
		return appendRecord(nil, &l.clock, time.Now(), Source{-1, -1, -1, LevelWarning}.header(), text)
	})
	l.writers = append(l.writers, w)
	return w
}

func appendRecord(to []byte, c *clock, now time.Time, header, text []byte) []byte {
	to = c.append(to, now)
	to = append(to, header...)
	to = append(to, text...)
	return append(to, '\n')
}

// Add adds a line of the master's own, without its newline. It never blocks.
func (l *Log) Add(s Source, text []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	line := appendRecord(nil, &l.clock, time.Now(), s.header(), text)
	l.ring(s.Slot).add(line, l.half())
	l.wake()
	for _, w := range l.own {
		w.put(line, 1)
	}
}

// headerSize is about what stands before a text.
const headerSize = 48

// maxBatch is how much is written at once, about, in bytes.
const maxBatch = 32 << 10

// add adds lines of a worker. It waits while there is no room for them.
func (l *Log) add(c *captured, text []byte) {
	lines := bytes.Count(text, []byte{'\n'}) + 1
	size := len(text) + lines*headerSize
	for i, w := range l.writers {
		c.dropping[i] = !w.wait(&c.shares[i], size)
	}
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	r, half := l.ring(c.slot), l.half()
	batch, count := l.batch, 0
	flush := func() {
		for i, w := range l.writers {
			w.putShare(&c.shares[i], batch, count, c.dropping[i])
		}
		batch, count = batch[:0], 0
	}
	for len(text) > 0 {
		line, rest, _ := bytes.Cut(text, []byte{'\n'})
		text = rest
		from := len(batch)
		batch = appendRecord(batch, &l.clock, now, c.header, line)
		count++
		r.add(batch[from:], half)
		if len(batch) > maxBatch {
			flush()
		}
	}
	flush()
	l.batch = batch
	l.wake()
}

func (l *Log) ring(slot int) *ring {
	r := l.rings[max(slot, -1)]
	if l.rings == nil {
		l.rings = map[int]*ring{}
	}
	if r == nil {
		r = new(ring)
		l.rings[max(slot, -1)] = r
	}
	return r
}

// half is the size of half a ring.
func (l *Log) half() int {
	return min(max(maxKept/2/max(1, len(l.rings)), minHalf), maxHalf)
}

func (l *Log) wake() {
	if l.more != nil {
		close(l.more)
		l.more = nil
	}
}

// A Page is what a reader gets.
type Page struct {
	Lines  []Line          `json:"lines"` // the oldest first
	Last   time.Time       `json:"-"`     // of the newest line of the app, whatever was asked for
	Count  uint64          `json:"-"`     // of all lines so far of what was asked for, of which the log has the newest
	Missed uint64          `json:"-"`     // how many have come since the query's Seen and are not here
	More   <-chan struct{} `json:"-"`     // closed when there is another line
}

// Read returns the newest lines that are kept.
func (l *Log) Read(q Query) Page {
	l.mu.Lock()
	var page Page
	if l.more == nil {
		l.more = make(chan struct{})
	}
	page.More, page.Last = l.more, l.clock.last
	var kept []ring // whose bytes stay as they are
	for slot, r := range l.rings {
		if q.Slot == nil || *q.Slot == slot {
			kept = append(kept, *r)
			page.Count += r.count
		}
	}
	l.mu.Unlock()
	looked := uint64(0)
	for _, r := range kept {
		matched := 0
		if q.N == 0 {
			break
		}
		r.backward(func(line []byte) bool {
			select {
			case <-q.Left:
				return false
			default:
			}
			at, got, ok := q.look(line)
			if !at.After(q.Since) {
				return false
			}
			looked++
			if ok {
				page.Lines = append(page.Lines, got)
				matched++
			}
			return q.N == All || matched < q.N
		})
	}
	slices.SortFunc(page.Lines, func(a, b Line) int { return a.Time.Compare(b.Time) })
	if cut := len(page.Lines) - q.N; q.N != All && cut > 0 {
		page.Lines = page.Lines[cut:]
		looked -= uint64(cut)
	}
	if page.Count > q.Seen+looked {
		page.Missed = page.Count - q.Seen - looked
	}
	return page
}

// Directory is where the files are; "": there are none.
func (l *Log) Directory() string {
	if l.files == nil {
		return ""
	}
	return l.files.dir
}

// begin notes that a pipe is captured, until the function that it returns is called.
func (l *Log) begin(from io.ReadCloser) func() {
	pipe, ok := from.(deadliner)
	if !ok {
		return func() {}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pipes == nil {
		l.pipes = map[deadliner]bool{}
	}
	l.pipes[pipe] = true
	l.captures.Add(1)
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.pipes, pipe)
		l.captures.Done()
	}
}

// Close takes what dead workers have written last, ends the captures and writes what is
// left, for about roomTimeout at most. No capture may begin then.
func (l *Log) Close() {
	l.mu.Lock()
	for pipe := range l.pipes {
		_ = pipe.SetReadDeadline(time.Now().Add(lastRead)) // what is there is read before that
	}
	l.mu.Unlock()
	l.captures.Wait()
	for _, w := range l.writers {
		w.Close()
	}
	if l.files != nil {
		l.files.Close()
	}
}
