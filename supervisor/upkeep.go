package supervisor

import (
	"fmt"
	"strings"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/pool"
)

// upkeep looks after the app's place: somebody may remove the directory, or what is
// in it. It does so beside the loop, as the file system may hang, and one look at a
// time. Its other fields are the look's own.
type upkeep struct {
	place   *control.Place // nil: there is none
	looking chan struct{}  // holds one while there is a look
	failed  string         // why something is missing still, at the last look
	moved   bool           // the records have to follow the lock
}

func newUpkeep(place *control.Place) upkeep {
	return upkeep{place: place, looking: make(chan struct{}, 1)}
}

// keepPlace has the place looked after, unless the last look has not ended.
func (h *host) keepPlace() {
	select {
	case h.upkeep.looking <- struct{}{}:
	default:
		return
	}
	var notify []*notifySocket
	for _, w := range h.workers {
		if w.notify != nil {
			notify = append(notify, w.notify)
		}
	}
	go func() {
		defer func() { <-h.upkeep.looking }()
		h.lookAfterPlace(notify)
	}()
}

func (h *host) lookAfterPlace(notify []*notifySocket) {
	restored, err := h.upkeep.place.Inspect()
	h.upkeep.moved = h.upkeep.moved || len(restored) > 0
	if err == nil && h.upkeep.moved {
		err = h.moveRecords()
		h.upkeep.moved = err != nil
	}
	for _, s := range notify {
		if err == nil {
			err = s.renew()
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
			h.chronicle.add(control.Event{Type: control.EventRuntimeRestored, Reason: fmt.Sprintf("%s: %s", h.upkeep.place.Dir, what)})
		}
		if news {
			h.log.Error("somebody has removed the app's files, and they cannot be made again: forkd does not find the app: tried again each second", "in", h.upkeep.place.Dir, "why", failed)
			h.chronicle.add(control.Event{Type: control.EventRuntimeLost, Reason: failed})
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
