package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/safefile"
)

// endSize is what ReadEnd reads, in bytes.
const endSize = 256 << 10

// maxRecord is the longest line that is read, in bytes: an exit with its output takes less.
const maxRecord = 1 << 20

// History is what was kept of an app.
type History struct {
	Path    string   // STATE/APP
	Records []Record // the oldest first
	Notes   []string // what could not be read, and why: for a person
}

// Read reads an app's history in the first of the directories that has one of this user, or,
// for root, of any. It returns os.ErrNotExist where there is none, and os.ErrPermission where
// there is one of somebody else.
func Read(app string) (History, error) { return readHistory(app, false) }

// ReadEnd is Read of the newest records alone, at little cost.
func ReadEnd(app string) (History, error) { return readHistory(app, true) }

func readHistory(app string, end bool) (History, error) {
	missing := fmt.Errorf("nothing is kept of %q: %w", app, os.ErrNotExist)
	for _, root := range Roots() {
		path := filepath.Join(root, app)
		dir, err := openDir(path, false)
		if errors.Is(err, os.ErrPermission) {
			missing = fmt.Errorf("%w: be that user, or root", err)
		}
		if err != nil {
			continue
		}
		h := History{Path: path}
		names, most := []string{olderName, historyName}, int64(2*maxHistory)
		if end {
			names, most = names[1:], endSize
		}
		for _, name := range names {
			if err := h.read(dir, name, most); err != nil && !errors.Is(err, os.ErrNotExist) {
				h.Notes = append(h.Notes, err.Error())
			}
		}
		dir.Close()
		if len(h.Records)+len(h.Notes) > 0 {
			return h, nil
		}
	}
	return History{}, missing
}

// open opens a regular file of at most so many bytes for reading.
func open(dir *os.Root, name string, most int64) (*os.File, error) {
	file, size, err := regular(dir, name, os.O_RDONLY)
	if err == nil && size > most {
		file.Close()
		err = fmt.Errorf("%s has %d bytes, more than forkd writes", name, size)
	}
	return file, err
}

// regular opens a regular file of the directory's owner, or root. Others may have been able to
// write to the directory once.
func regular(dir *os.Root, name string, how int) (file *os.File, size int64, err error) {
	if file, err = dir.OpenFile(name, how|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600); err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	within, bad := dir.Stat(".")
	if err = errors.Join(err, bad); err == nil {
		switch uid := owner(info); {
		case !info.Mode().IsRegular():
			err = fmt.Errorf("%s is no regular file", name)
		case uid != 0 && uid != owner(within):
			err = fmt.Errorf("%s belongs to uid %d", name, uid)
		default:
			return file, info.Size(), nil
		}
	}
	file.Close()
	return nil, 0, err
}

func owner(info os.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Uid) }

// read adds the records in the last so many bytes of a file. Lines that are torn or of a
// later forkd are counted.
func (h *History) read(dir *os.Root, name string, most int64) error {
	file, err := open(dir, name, 2*maxHistory)
	if err != nil {
		return err
	}
	defer file.Close()
	torn, later := 0, 0
	at, err := file.Seek(-most, io.SeekEnd)
	lines := safefile.ScanLines(io.LimitReader(file, 2*maxHistory), maxRecord)
	if err == nil && at > 0 {
		lines.Scan() // the end of a line
	}
	for lines.Scan() {
		line := bytes.TrimSpace(lines.Bytes())
		var r Record
		switch err := json.Unmarshal(line, &r); {
		case len(line) == 0:
		case err != nil || r.Schema == 0 || r.Event == nil && r.Exit == nil && r.Roll == nil && r.Schema <= schema:
			torn++
		case r.Schema > schema:
			later++
		default:
			h.Records = append(h.Records, r)
		}
	}
	if lines.Err() != nil {
		torn++
	}
	if torn > 0 {
		h.Notes = append(h.Notes, fmt.Sprintf("%s: %d lines are torn or no records", name, torn))
	}
	if later > 0 {
		h.Notes = append(h.Notes, fmt.Sprintf("%s: %d lines are of a later forkd: use that one to see them", name, later))
	}
	return nil
}

// Load reads what the last master kept, without a lock: of an app that can't be started as it
// is. The directory must be this user's. There is none, or it can't be used: nothing is kept.
func Load(root, app string) Kept {
	dir, err := openDir(filepath.Join(root, app), false)
	if err != nil {
		return Kept{}
	}
	defer dir.Close()
	if info, err := dir.Stat("."); err != nil || owner(info) != os.Geteuid() {
		return Kept{}
	}
	k, err := readKept(dir)
	if err != nil {
		return Kept{}
	}
	return k
}

// readKept reads what the last master kept. An error is what is wrong with it, not that
// there is none.
func readKept(dir *os.Root) (Kept, error) {
	file, err := open(dir, keptName, maxKept)
	if errors.Is(err, os.ErrNotExist) {
		return Kept{}, nil
	}
	if err != nil {
		return Kept{}, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxKept))
	if err != nil {
		return Kept{}, err
	}
	var k Kept
	var of struct{ Schema int } // in one of another schema the rest may be anything
	if err := json.Unmarshal(text, &of); err == nil && of.Schema != schema {
		return Kept{}, fmt.Errorf("%s has schema %d, and this forkd reads %d", keptName, of.Schema, schema)
	}
	if err := json.Unmarshal(text, &k); err != nil {
		return Kept{}, fmt.Errorf("%s is torn: %w", keptName, err)
	}
	return k, nil
}
