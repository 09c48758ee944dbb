package supervisor

import (
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/workerlink"
)

// runtimeDir is the app's directory, which somebody may remove, or what is in it. It
// is inspected on watchRuntimeDir's goroutine, as the file system may hang. That goroutine
// owns its fields but dir.
type runtimeDir struct {
	dir         *control.RuntimeDir
	inspect     chan []*workerlink.Link // of the workers that live
	inspections int                     // so far
	seen        fs.FileInfo             // the directory, at the last inspection
	failed      string                  // why something is missing still
	moved       bool                    // the records have to follow the lock
}

// keepRuntimeDir has the directory inspected, unless the last inspection has not
// ended.
func (e *executor) keepRuntimeDir() {
	links := make([]*workerlink.Link, 0, len(e.workers))
	for _, w := range e.workers {
		links = append(links, w.link)
	}
	select {
	case e.runtime.inspect <- links:
	default:
	}
}

// watchRuntimeDir inspects the directory until the loop ends. It blocks. (A new goroutine
// for each inspection would read 0.5 MB of the program's tables, when its stack grows and
// when it ends.)
func (e *executor) watchRuntimeDir() {
	for {
		select {
		case links := <-e.runtime.inspect:
			reserveStack()
			if e.runtime.due() {
				e.restoreRuntimeDir(links)
			}
		case <-e.inbox.done:
			return
		}
	}
}

// due reports whether to look into the directory: when a file was made or removed
// there, and every tenth time.
func (r *runtimeDir) due() bool {
	now, err := os.Lstat(r.dir.Dir)
	before := r.seen
	r.seen = now
	r.inspections++
	return err != nil || r.failed != "" || r.inspections%10 == 0 || !os.SameFile(now, before) || !now.ModTime().Equal(before.ModTime())
}

func (e *executor) restoreRuntimeDir(links []*workerlink.Link) {
	restored, err := e.runtime.dir.Inspect()
	e.runtime.moved = e.runtime.moved || len(restored) > 0
	if err == nil && e.runtime.moved {
		err = e.moveRecords()
		e.runtime.moved = err != nil
	}
	for _, l := range links {
		if err == nil {
			err = l.RenewNotify()
		}
	}
	failed := ""
	if err != nil {
		failed = err.Error()
	}
	news := runtimeChecked{restored: restored}
	if failed != e.runtime.failed {
		news.failed = failed
	}
	e.runtime.failed = failed
	if len(restored) > 0 || news.failed != "" {
		e.inbox.postReport(news)
	}
}

func (e *executor) noteRuntime(r runtimeChecked) {
	dir := e.runtime.dir.Dir
	if len(r.restored) > 0 {
		what := strings.Join(r.restored, ", ")
		e.log.Warn("somebody has removed the app's files: made again", "in", dir, "what", what)
		e.events.Add(control.Event{Type: control.EventRuntimeRestored, Reason: fmt.Sprintf("%s: %s", dir, what)})
	}
	if r.failed != "" {
		e.log.Error("somebody has removed the app's files, and they cannot be made again: forkd does not find the app: tried again each second", "in", dir, "why", r.failed)
		e.events.Add(control.Event{Type: control.EventRuntimeLost, Reason: r.failed})
	}
}

// moveRecords writes the workers' records to the current lock file.
func (e *executor) moveRecords() error {
	file, err := e.runtime.dir.OpenLock()
	if err != nil {
		return err
	}
	return e.children.MoveRecords(file)
}
