package fleet

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// The bounds of a host's `workers`.
const (
	mostRows    = 4096    // every slot that an app can have, with predecessors and leaving ones
	mostColumns = 1 << 20 // bytes
	mostDepth   = 8       // of a column that this forkd does not know
	mostNumber  = 1 << 53 // beyond it, a JSON number is not exact for everybody
	mostPercent = 1e7     // 100 is one core
)

// Worker is one row of a host's workers. A figure that is not known is nil.
type Worker struct {
	Slot        int64    `json:"slot"`
	PID         *int64   `json:"pid"` // nil: the slot has no process
	Generation  *int64   `json:"generation"`
	State       string   `json:"state"`
	Connections *int64   `json:"connections"`
	Accepted    *int64   `json:"accepted"`
	Requests    *int64   `json:"requests"`
	Queue       *int64   `json:"queue"`
	CPUPercent  *float64 `json:"cpu_percent"`
	RSSBytes    *int64   `json:"rss_bytes"`
	Restarts    *int64   `json:"restarts"`
}

// The columns of whole numbers, in the order of parser.numbers.
const (
	columnSlot = iota
	columnPID
	columnGeneration
	columnConnections
	columnAccepted
	columnRequests
	columnQueue
	columnRSS
	columnRestarts
	numberColumns // those above
	columnState
	columnCPU
	allColumns
	columnUnknown // another one, of a later forkd: it is skipped
)

// columnOf names the columns; it is a switch because that is faster than a map.
func columnOf(name string) int {
	switch name {
	case "slot":
		return columnSlot
	case "pid":
		return columnPID
	case "generation":
		return columnGeneration
	case "state":
		return columnState
	case "connections":
		return columnConnections
	case "accepted":
		return columnAccepted
	case "requests":
		return columnRequests
	case "queue":
		return columnQueue
	case "cpu_percent":
		return columnCPU
	case "rss_bytes":
		return columnRSS
	case "restarts":
		return columnRestarts
	default:
		return columnUnknown
	}
}

// parser reads `workers`, one JSON object of equally long columns, and keeps its
// room from one host to the next: a fleet of 10,000 hosts has 640,000 rows. One
// goroutine uses it. Its zero value is ready.
type parser struct {
	text string
	at   int

	numbers [numberColumns][]int64 // unknown: -1
	cpu     []float64              // unknown: -1
	states  []string
}

// columns makes rows of text. The error says in words what is wrong with it;
// what it quotes from it is escaped and short.
func (p *parser) columns(text string) ([]Worker, error) {
	if len(text) > mostColumns {
		return nil, fmt.Errorf("%d bytes: at most %d are read", len(text), mostColumns)
	}
	p.text, p.at = text, 0
	defer func() { p.text = "" }()
	var names [allColumns]string // of the columns that are there
	if err := p.object(&names); err != nil {
		return nil, err
	}
	for _, required := range []struct {
		column int
		name   string
	}{{columnSlot, "slot"}, {columnState, "state"}} {
		if names[required.column] == "" && names != [allColumns]string{} {
			return nil, fmt.Errorf("there is no column %s", required.name)
		}
	}
	if names[columnSlot] == "" {
		return nil, nil
	}
	rows := len(p.numbers[columnSlot])
	for column, name := range names {
		if name != "" && p.length(column) != rows {
			return nil, fmt.Errorf("column %s has %d rows, slot has %d", name, p.length(column), rows)
		}
	}
	for row, slot := range p.numbers[columnSlot] {
		if slot < 0 {
			return nil, fmt.Errorf("column slot, row %d: there is none", row)
		}
	}
	return p.rows(&names), nil
}

func (p *parser) length(column int) int {
	switch {
	case column < numberColumns:
		return len(p.numbers[column])
	case column == columnState:
		return len(p.states)
	default:
		return len(p.cpu)
	}
}

// rows copies what was read: one block holds every figure of a host, as two
// million small ones would keep the garbage collector busy.
func (p *parser) rows(names *[allColumns]string) []Worker {
	n := len(p.states)
	workers := make([]Worker, n)
	known := 0
	for column := columnPID; column < numberColumns; column++ {
		if names[column] != "" {
			known++
		}
	}
	block := make([]int64, 0, known*n)
	for column := columnPID; column < numberColumns; column++ {
		if names[column] == "" {
			continue
		}
		from := len(block)
		block = append(block, p.numbers[column]...)
		for row := range workers {
			if v := &block[from+row]; *v >= 0 {
				*workers[row].figure(column) = v
			}
		}
	}
	var cpu []float64
	if names[columnCPU] != "" {
		cpu = append(cpu, p.cpu...)
	}
	for row := range workers {
		workers[row].Slot, workers[row].State = p.numbers[columnSlot][row], p.states[row]
		if cpu != nil && cpu[row] >= 0 {
			workers[row].CPUPercent = &cpu[row]
		}
	}
	return workers
}

// figure is where a row has what a column of whole numbers says.
func (w *Worker) figure(column int) **int64 {
	switch column {
	case columnPID:
		return &w.PID
	case columnGeneration:
		return &w.Generation
	case columnConnections:
		return &w.Connections
	case columnAccepted:
		return &w.Accepted
	case columnRequests:
		return &w.Requests
	case columnQueue:
		return &w.Queue
	case columnRSS:
		return &w.RSSBytes
	default:
		return &w.Restarts
	}
}

// object reads all of the text.
func (p *parser) object(names *[allColumns]string) error {
	if !p.take('{') {
		return p.malformed("an object of columns")
	}
	for n := 0; !p.take('}'); n++ {
		if n > 0 && !p.take(',') {
			return p.malformed("a comma")
		}
		name, err := p.str()
		if err != nil {
			return err
		}
		if !p.take(':') {
			return p.malformed("a colon")
		}
		column := columnOf(name)
		if column == columnUnknown {
			if err := p.skip(0); err != nil {
				return err
			}
			continue
		}
		if names[column] != "" {
			return fmt.Errorf("column %s is there twice", name)
		}
		names[column] = name
		if err := p.column(column); err != nil {
			if inWords, ok := errors.AsType[*badValue](err); ok {
				return fmt.Errorf("column %s, row %d: %s", name, inWords.row, inWords.what)
			}
			return err
		}
	}
	p.space()
	if p.at != len(p.text) {
		return p.malformed("the end")
	}
	return nil
}

// badValue is a value that is JSON and makes no sense where it stands.
type badValue struct {
	row  int
	what string
}

func (e *badValue) Error() string { return e.what }

// column reads one array of values into the room for it.
func (p *parser) column(column int) error {
	switch {
	case column < numberColumns:
		p.numbers[column] = p.numbers[column][:0]
	case column == columnState:
		p.states = p.states[:0]
	default:
		p.cpu = p.cpu[:0]
	}
	if !p.take('[') {
		return p.malformed("an array")
	}
	for row := 0; !p.take(']'); row++ {
		if row > 0 && !p.take(',') {
			return p.malformed("a comma")
		}
		if row == mostRows {
			return &badValue{row, fmt.Sprintf("at most %d rows are read", mostRows)}
		}
		var err error
		switch {
		case column < numberColumns:
			var v int64
			v, err = p.whole(row)
			p.numbers[column] = append(p.numbers[column], v)
		case column == columnState:
			var v string
			v, err = p.state(row)
			p.states = append(p.states, v)
		default:
			var v float64
			v, err = p.fraction(row)
			p.cpu = append(p.cpu, v)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// whole is a number from 0 to 2^53, or -1 for null.
func (p *parser) whole(row int) (int64, error) {
	p.space()
	from := p.at
	v := int64(0)
	for p.at < len(p.text) && p.at-from < 17 {
		c := p.text[p.at] - '0'
		if c > 9 {
			break
		}
		v = v*10 + int64(c)
		p.at++
	}
	more := p.at < len(p.text) && (p.text[p.at] == '.' || p.text[p.at]|0x20 == 'e' || p.text[p.at]-'0' <= 9)
	if digits := p.at - from; digits > 0 && !more && v <= mostNumber && (digits == 1 || p.text[from] != '0') {
		return v, nil
	}
	p.at = from
	if p.word("null") {
		return -1, nil
	}
	number, err := p.number(row)
	if err != nil {
		return 0, err
	}
	return 0, &badValue{row, fmt.Sprintf("%s is not a whole number from 0 to 2^53", short(number))}
}

// fraction is a share of a core in percent, or -1 for null.
func (p *parser) fraction(row int) (float64, error) {
	p.space()
	if p.word("null") {
		return -1, nil
	}
	number, err := p.number(row)
	if err != nil {
		return 0, err
	}
	v, err := strconv.ParseFloat(number, 64)
	if err != nil || !(v >= 0 && v <= mostPercent) {
		return 0, &badValue{row, fmt.Sprintf("%s is no share of a processor", short(number))}
	}
	return max(v, 0), nil // -0 is 0
}

// state is a worker's or a slot's state; those of this forkd are not copied.
func (p *parser) state(row int) (string, error) {
	p.space()
	if p.at == len(p.text) || p.text[p.at] != '"' {
		return "", p.another(row, "a state")
	}
	s, err := p.str()
	if err != nil {
		return "", err
	}
	if known := knownState(s); known != "" {
		return known, nil
	}
	if !printable(s) || len(s) > mostWord {
		return "", &badValue{row, fmt.Sprintf("%s is not a state", short(s))}
	}
	return strings.Clone(s), nil
}

// another is the error for a value of another kind than what is expected.
func (p *parser) another(row int, expected string) error {
	if p.at < len(p.text) && strings.IndexByte(`"{[tfn-0123456789`, p.text[p.at]) >= 0 {
		return &badValue{row, fmt.Sprintf("%s is not %s", short(p.text[p.at:]), expected)}
	}
	return p.malformed(expected)
}
