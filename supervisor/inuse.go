package supervisor

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/internal/sockets"
)

// heldBy finds who listens where a failed worker's last bind(2) was that forkd did not
// answer. It may take a while.
func (w *worker) heldBy(exit process.Exit) *sockets.Holder {
	asked := w.asked.Load()
	if exit.Code <= 0 || asked == nil {
		return nil
	}
	if h, ok := asked.Holder(); ok {
		return &h
	}
	return nil
}

// hint says what to do about a worker that ended because its address is in use, or because
// it went to the background; "": it did not, as far as that can be known.
func (e *executor) hint(w *worker, exit process.Exit, holder *sockets.Holder) string {
	if brief := w.care.ready && time.Since(w.care.readyAt) < time.Second; exit.Code == 0 && (brief || !w.begun.Load()) {
		return inBackground(w.cfg.Preset.Name)
	}
	if exit.Code <= 0 {
		return ""
	}
	listeners, pass := len(*w.inodes.Load()) > 0, cmp.Or(w.release.pass, w.release.taken)
	switch {
	case holder != nil:
		return e.inUse(w, *holder, listeners)
	case pass == "" || !slices.ContainsFunc(w.output.Lines(), saysInUse):
		return ""
	case listeners:
		return "it says that its address is in use: forkd listens there, and passes the socket ({fd} in the command, or LISTEN_FDS); it would answer the program's own bind(2), but: " + pass
	default:
		return "it says that its address is in use, which another worker may have: forkd can't share it among them here (forkd describe says why): give --listen, and the program the socket ({fd} in the command, or LISTEN_FDS)"
	}
}

// inUse says who has the address that a worker asked for.
func (e *executor) inUse(w *worker, by sockets.Holder, listeners bool) string {
	asked := w.asked.Load()
	at, holder, remedy := cmp.Or(asked.Path, asked.Address.String()), by.String(), "stop it, or have the program listen elsewhere"
	session, err := unix.Getsid(by.PID)
	for _, other := range e.workers {
		if err == nil && by.PID != 0 && other.process.PID() == session {
			holder = "another worker, " + holder
		}
	}
	if listeners {
		at += ", which is none of the app's listeners,"
		remedy = "have the program listen on one of them, or give --listen that address"
	}
	return fmt.Sprintf("%s is held by %s: %s", at, holder, remedy)
}

// inBackground says how a program stays in the foreground that else goes to the background,
// by nginx(8), lighttpd(8) and php-fpm(8); "": it stays there.
func inBackground(preset string) string {
	stays := map[string]string{"nginx": `-g "daemon off;"`, "lighttpd": "-D", "php-fpm": "-F"}[preset]
	if stays == "" {
		return ""
	}
	return fmt.Sprintf("%s went to the background, where forkd does not keep it: add %s to its command", preset, stays)
}

// saysInUse reports whether a program's line is about an address in use, as node, the C
// library, Java and gunicorn say it.
func saysInUse(line string) bool {
	line = strings.ToLower(line)
	return slices.ContainsFunc([]string{"eaddrinuse", "address in use", "address already in use", "connection in use"},
		func(words string) bool { return strings.Contains(line, words) })
}
