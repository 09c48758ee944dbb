package output

import (
	"bytes"
	"fmt"
	"net"
)

// JournalSocket is where journald takes messages.
const JournalSocket = "/run/systemd/journal/socket"

// A Journal sends lines to systemd's journal in its own protocol, with fields that can be
// filtered by: FORKD_APP, FORKD_SLOT, FORKD_GENERATION, FORKD_PID
// (https://systemd.io/JOURNAL_NATIVE_PROTOCOL).
type Journal struct {
	socket  string
	conn    *net.UnixConn
	app     string
	message []byte
	lost    int // lines that were not taken
}

// NewJournal connects to the journal's socket.
func NewJournal(socket, app string) (*Journal, error) {
	j := &Journal{socket: socket, app: app}
	return j, j.connect()
}

func (j *Journal) connect() error {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: j.socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("cannot connect to the journal: %w", err)
	}
	if j.conn != nil {
		j.conn.Close()
	}
	j.conn = conn
	return nil
}

// Write takes records.
func (j *Journal) Write(records []byte) (int, error) {
	for line := range bytes.Lines(records) {
		if r, ok := cutRecord(bytes.TrimSuffix(line, []byte{'\n'})); ok {
			j.send(r)
		}
	}
	return len(records), nil
}

// send sends a message, which has no newline in any field. One that is not taken is counted.
func (j *Journal) send(r record) {
	priority, identifier := byte('6'), "forkd"
	if r.ofMaster() {
		switch string(r.stream) {
		case LevelWarning:
			priority = '4'
		case LevelError:
			priority = '3'
		}
	} else {
		identifier = j.app + "." + string(r.slot)
		if t := r.text; len(t) >= 3 && t[0] == '<' && t[2] == '>' && '0' <= t[1] && t[1] <= '7' { // sd-daemon(3)
			priority, r.text = t[1], t[3:]
		}
	}
	if j.lost > 0 {
		r.text = fmt.Appendf(nil, "(%d lines before this one were not taken by the journal) %s", j.lost, r.text)
	}
	m := append(append(j.message[:0], "MESSAGE="...), r.text...)
	m = append(append(m, "\nPRIORITY="...), priority)
	m = append(append(m, "\nSYSLOG_IDENTIFIER="...), identifier...)
	m = append(append(m, "\nFORKD_APP="...), j.app...)
	for _, field := range []struct {
		name  string
		value []byte
	}{{"SLOT", r.slot}, {"GENERATION", r.generation}, {"PID", r.pid}} {
		if number(field.value) != nil {
			m = append(append(append(append(m, "\nFORKD_"...), field.name...), '='), field.value...)
		}
	}
	j.message = append(m, '\n')
	_, err := j.conn.Write(j.message)
	if err != nil && j.connect() == nil { // it may have been started again
		_, err = j.conn.Write(j.message)
	}
	if err != nil {
		j.lost++
	} else {
		j.lost = 0
	}
}
