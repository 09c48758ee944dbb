package supervisor

import (
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/workerlink"
)

// upkeep looks after the app's place: somebody may remove the directory, or what is
// in it. It does so beside the loop, as the file system may hang. Its fields but
// place are the look's own.
type upkeep struct {
	place  *control.RuntimeDir // nil: there is none
	look   sync.Mutex          // one at a time
	looks  int                 // so far
	seen   fs.FileInfo         // the directory, at the last look that looked into it
	failed string              // why something is missing still, at the last look
	moved  bool                // the records have to follow the lock
}

// keepPlace has the place looked after, unless the last look has not ended.
func (h *host) keepPlace() {
	if !h.upkeep.look.TryLock() {
		return
	}
	links := make([]*workerlink.Link, 0, len(h.workers))
	for _, w := range h.workers {
		links = append(links, w.link)
	}
	go func() {
		defer h.upkeep.look.Unlock()
		if h.upkeep.due() {
			h.lookAfterPlace(links)
		}
	}()
}

// due reports whether to look into the directory: when a file was made or removed
// there, and every tenth time anyhow.
func (u *upkeep) due() bool {
	now, err := os.Lstat(u.place.Dir)
	before := u.seen
	u.seen = now
	u.looks++
	return err != nil || u.failed != "" || u.looks%10 == 0 || !os.SameFile(now, before) || !now.ModTime().Equal(before.ModTime())
}

func (h *host) lookAfterPlace(links []*workerlink.Link) {
	restored, err := h.upkeep.place.Inspect()
	h.upkeep.moved = h.upkeep.moved || len(restored) > 0
	if err == nil && h.upkeep.moved {
		err = h.moveRecords()
		h.upkeep.moved = err != nil
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
	news := failed != h.upkeep.failed && failed != ""
	h.upkeep.failed = failed
	if len(restored) == 0 && !news {
		return
	}
	h.tell(func() pool.Event {
		if len(restored) > 0 {
			what := strings.Join(restored, ", ")
			h.log.Warn("somebody has removed the app's files: made again", "in", h.upkeep.place.Dir, "what", what)
			h.events.Add(control.Event{Type: control.EventRuntimeRestored, Reason: fmt.Sprintf("%s: %s", h.upkeep.place.Dir, what)})
		}
		if news {
			h.log.Error("somebody has removed the app's files, and they cannot be made again: forkd does not find the app: tried again each second", "in", h.upkeep.place.Dir, "why", failed)
			h.events.Add(control.Event{Type: control.EventRuntimeLost, Reason: failed})
		}
		return nil
	})
}

// moveRecords has the workers recorded in the lock's file of now.
func (h *host) moveRecords() error {
	file, err := h.upkeep.place.OpenLock()
	if err != nil {
		return err
	}
	return h.children.MoveRecords(file)
}
