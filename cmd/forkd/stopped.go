package main

import (
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/forkd/forkd/internal/config"
	"github.com/forkd/forkd/internal/control"
	processes "github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/internal/state"
)

// stoppedApps are the apps without a master that have a file, or that a killed master has
// left workers of; for a name that one alone, also where only its history is left.
func stoppedApps(there control.Survey, name string) (apps []appStatus) {
	files, _ := config.Apps() // it fails where the current directory is gone
	add := func(at control.Location, file string, left []control.Leftover) {
		here := func(l control.Location) bool { return l.Name == at.Name && (at.Dir == "" || l.Dir == at.Dir) }
		switch {
		case name != "" && name != at.Name && name != at.Path():
			return
		case slices.ContainsFunc(apps, func(a appStatus) bool { return here(a.at) }):
			return
		case slices.ContainsFunc(there.Live, here), slices.ContainsFunc(there.Others, here):
			return
		}
		history, err := state.ReadEnd(at.Name)
		if file == "" && left == nil && err != nil {
			return
		}
		apps = append(apps, appStatus{at: at, title: at.Name, stopped: lastWords(history, time.Now()), app: control.App{
			Schema: control.StatusSchema, App: at.Name, State: stoppedState, Config: file, Listeners: []control.Listener{}, Slots: []control.Slot{}, Leftovers: append([]control.Leftover{}, left...),
		}})
	}
	fileOf := func(app string) string {
		if i := slices.IndexFunc(files, func(a config.App) bool { return a.Name == app }); i >= 0 {
			return files[i].File
		}
		return ""
	}
	for _, at := range there.Dead {
		if left := leftBy(at); left != nil {
			add(at, fileOf(at.Name), left)
		}
	}
	for _, a := range files {
		add(control.Location{Name: a.Name}, a.File, nil)
	}
	if control.ValidName(name) {
		add(control.Location{Name: name}, "", nil)
	}
	return apps
}

func leftBy(at control.Location) (left []control.Leftover) {
	lock, err := at.OpenLock()
	if err != nil {
		return nil
	}
	defer lock.Close()
	before := processes.ReadPredecessor(lock)
	alive := before.Alive()
	slices.SortFunc(alive, func(a, b processes.Record) int { return a.Slot - b.Slot })
	for _, r := range alive {
		l := control.Leftover{PID: r.PID, State: control.StateDraining, Processes: 1, Reason: "left by a killed master"}
		if r.Slot >= 0 {
			l.Slot = &r.Slot
		}
		if started := processes.StartedAt(r.PID); !started.IsZero() {
			l.StartedAt = &started
		}
		left = append(left, l)
	}
	return left
}

func (s screen) stoppedLines(a *appStatus, now time.Time) []string {
	text := a.title + ": " + a.stopped
	if n := len(a.app.Leftovers); n > 0 {
		drain := "drain"
		if n == 1 {
			drain = "drains"
		}
		text = fmt.Sprintf("%s: its master was killed, and %s still %s", a.title, plural(n, "worker"), drain)
	}
	if a.app.Config != "" {
		text += "; forkd start " + a.at.Name + " runs it again"
	}
	lines := s.warning(s.wrapIndent("", "  ", sanitize(text)))
	if len(a.app.Leftovers) == 0 {
		return lines
	}
	var rows []statusRow
	for i := range a.app.Leftovers {
		rows = append(rows, leftoverRow(&a.app.Leftovers[i], now))
	}
	return append(lines, drawTable(s, statusColumns(now, false), rows, nil)...)
}

// othersText says which apps this user may not see, and what to do.
func othersText(others []control.Location) string {
	byUser := map[string][]string{}
	var users []string
	for _, at := range others {
		name := ownerOf(at)
		if byUser[name] == nil {
			users = append(users, name)
		}
		byUser[name] = append(byUser[name], at.Name)
	}
	var parts []string
	for _, name := range users {
		parts = append(parts, strings.Join(byUser[name], ", ")+" of "+name)
	}
	return "you may not see " + strings.Join(parts, "; ") + ": be that user, or root, or in its control.group"
}

func ownerOf(at control.Location) string {
	info, err := os.Stat(at.Path())
	if err != nil {
		return "another user"
	}
	uid := strconv.Itoa(int(info.Sys().(*syscall.Stat_t).Uid))
	if found, err := user.LookupId(uid); err == nil {
		return found.Username
	}
	return "uid " + uid
}
