package config

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// setting is a key with its value, or the header of a table. Inline tables, dotted
// keys and [table] give the same settings.
type setting struct {
	name      string // dotted
	path      []string
	first, at origin        // where the first and the last name of the key are written
	item      int           // index of the [[table]] of path[0] that it belongs to, -1: none
	form      unstable.Kind // KeyValue, Table (an inline one too), ArrayTable
	value     value
	twice     *Error // it was written before
}

// document reads the settings of a TOML file, in their order, from go-toml's syntax
// tree: a decoded value has no position, and no spelling of a number (0x10). go-toml
// checks the grammar and redefinitions.
type document struct {
	file     string
	text     []byte // of the file
	data     []byte // what is parsed of it, as long
	settings []setting
	seen     map[string]origin // by form, item and name
	items    map[string]int    // table array -> elements so far
	twice    bool              // some setting is
	failed   *Error            // what ends it
	torn     int               // where the grammar is broken, if that ends it; -1
}

// parse returns the settings of a file called name, and what is wrong with it, each with its
// line. It goes on behind a line that is no TOML.
func parse(name string, data []byte) (settings []setting, failed []*Error) {
	text := bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	// The parser finds the offset of a key by the capacity of its slice.
	data = bytes.Clone(text)[:len(text):len(text)]
	for {
		d := &document{file: name, text: text, data: data, seen: map[string]origin{}, items: map[string]int{}, torn: -1}
		d.checkText()
		d.read()
		if d.failed == nil {
			return d.settings, failed
		}
		failed = append(failed, d.failed)
		from, to := d.tear()
		if from == to || len(failed) == maxFailures {
			return d.settings, failed
		}
		for i := from; i < to; i++ {
			if data[i] != '\n' {
				data[i] = ' '
			}
		}
	}
}

// tear is what to leave out for the rest to be read: from the line where the broken setting
// begins to where another one does, or a table if its header is broken. It is empty where
// nothing more is found.
func (d *document) tear() (_, to int) {
	if d.torn < 0 {
		return 0, 0
	}
	begins := regexp.MustCompile(`^[ \t]*(\[\[?[A-Za-z]|[A-Za-z0-9_.-]+[ \t]*['"=])`)
	at := bytes.LastIndexByte(d.data[:d.torn], '\n') + 1 // the line where it is noticed
	whole := -1                                          // in the last setting before that
	for _, s := range d.settings {
		if s.at.offset < at {
			whole = max(whole, s.at.offset)
		}
	}
	from, broken := -1, false // broken: a header is
	for start := 0; start < len(d.data); {
		line, _, _ := bytes.Cut(d.data[start:], []byte("\n"))
		opens, header := begins.Match(line), bytes.HasPrefix(bytes.TrimLeft(line, " \t"), []byte("["))
		switch {
		case from < 0 && (start == at || opens && start > whole):
			from, broken = start, header
		case from < 0 || !opens || broken && !header:
		case start >= at:
			return from, start
		case to == 0:
			to = start // if what is open is never closed
		}
		start += len(line) + 1
	}
	if to == 0 {
		return 0, 0
	}
	return from, to
}

func (d *document) origin(offset int) origin {
	return origin{file: d.file, text: d.text, offset: offset}
}

func (d *document) fail(at origin, format string, args ...any) {
	if d.failed == nil {
		d.failed = at.errorf(format, args...)
	}
}

// checkText refuses binary files before the parser describes them byte by byte.
func (d *document) checkText() {
	if bytes.HasPrefix(d.data, []byte("\xff\xfe")) || bytes.HasPrefix(d.data, []byte("\xfe\xff")) {
		d.fail(d.origin(0), "the file is UTF-16: save it as UTF-8")
	}
	if i := bytes.IndexByte(bytes.ToValidUTF8(d.data, []byte{0}), 0); i >= 0 {
		d.fail(d.origin(i), "the file is not text: byte 0x%02x is not valid in UTF-8 TOML", d.data[i])
	}
}

func (d *document) read() {
	var parser unstable.Parser
	var table setting
	item := -1
	parser.Reset(d.data)
	for d.failed == nil && parser.NextExpression() {
		node := parser.Expression()
		if node.Kind == unstable.KeyValue {
			d.keyValue(table.path, item, node)
			continue
		}
		table = d.setting(nil, node)
		item = d.open(table)
	}
	if d.failed == nil {
		d.check(parser.Error())
	}
}

// check lets go-toml decode the whole file, for syntax errors and for redefinitions
// that add does not see.
func (d *document) check(syntax error) {
	var all map[string]any
	err := toml.Unmarshal(d.data, &all)
	if err == nil || d.twice { // go-toml would tell that again
		err = syntax
	}
	if err == nil {
		return
	}
	offset := 0
	if wrong, ok := errors.AsType[*toml.DecodeError](err); ok {
		row, column := wrong.Position()
		lines := bytes.SplitN(d.data, []byte("\n"), row)
		offset = min(len(d.data)-len(lines[len(lines)-1])+max(column, 1)-1, len(d.data))
	}
	d.torn = offset
	d.fail(d.origin(offset), "not valid TOML: %s", strings.TrimPrefix(err.Error(), "toml: "))
}

// keyValue adds `key = value`, and the settings inside a table or a list of tables.
func (d *document) keyValue(table []string, item int, node *unstable.Node) {
	s := d.setting(table, node)
	s.item = item
	switch v := node.Value(); {
	case v.Kind == unstable.InlineTable:
		s.form = unstable.Table
		d.add(s)
		d.inside(s, v)
	case len(s.path) == 1 && listOfTables(v):
		s.form = unstable.ArrayTable
		for it := v.Children(); d.failed == nil && it.Next(); {
			s.item = d.open(s)
			d.inside(s, it.Node())
		}
	default:
		at := d.valueAt(node)
		at.label = s.name
		s.value = d.value(v, at)
		d.add(s)
	}
}

func (d *document) inside(s setting, table *unstable.Node) {
	for it := table.Children(); d.failed == nil && it.Next(); {
		d.keyValue(s.path, s.item, it.Node())
	}
}

func listOfTables(node *unstable.Node) bool {
	tables := node.Kind == unstable.Array && node.Child() != nil
	for it := node.Children(); it.Next(); {
		tables = tables && it.Node().Kind == unstable.InlineTable
	}
	return tables
}

// open adds a table's header, and returns the element that the settings after it
// belong to.
func (d *document) open(header setting) int {
	if header.form == unstable.ArrayTable && len(header.path) == 1 {
		d.items[header.path[0]]++
	}
	header.item = d.items[header.path[0]] - 1
	d.add(header)
	return header.item
}

const (
	maxNames    = 8     // of a key; a setting has two at most
	maxSettings = 4_000 // go-toml compares every two keys of a table
)

// add keeps a setting, once.
func (d *document) add(s setting) {
	switch {
	case len(d.settings) == maxSettings:
		d.fail(s.at, "the file has over %d settings: is it the right one?", maxSettings)
		return
	case len(s.path) > maxNames:
		d.fail(s.at, "the key is nested too deep: no setting has more than two names, as ready.timeout")
		return
	}
	id := fmt.Sprint(s.form, s.item, s.name)
	if before, twice := d.seen[id]; twice && s.form != unstable.ArrayTable {
		line, _ := before.position()
		s.twice = s.at.errorf("%q is written twice: it is in line %d already", s.name, line)
		d.twice = true
	}
	d.seen[id] = s.at
	d.settings = append(d.settings, s)
}

// setting begins a setting below a table. A name with a dot or a special character is
// quoted in the dotted key: "ready.mode", quotes included, is not ready.mode.
func (d *document) setting(table []string, node *unstable.Node) setting {
	s := setting{path: slices.Clone(table), form: node.Kind}
	for it := node.Key(); it.Next(); {
		s.at = d.origin(int(it.Node().Raw.Offset))
		if len(s.path) == len(table) {
			s.first = s.at
		}
		s.path = append(s.path, string(it.Node().Data))
	}
	names := slices.Clone(s.path)
	for i, name := range names {
		if name == "" || strings.ContainsFunc(name, func(r rune) bool { return !inName(r) || r == '.' }) {
			names[i] = strconv.Quote(name)
		}
	}
	s.name = strings.Join(names, ".")
	return s
}

// value copies a node: the parser reuses its memory for the next expression.
func (d *document) value(node *unstable.Node, at origin) value {
	v := value{kind: node.Kind, text: string(node.Data), at: at}
	if node.Kind != list {
		return v
	}
	for it := node.Children(); it.Next(); {
		if raw := it.Node().Raw; raw.Length > 0 {
			at.offset = int(raw.Offset)
		}
		v.items = append(v.items, d.value(it.Node(), at))
	}
	return v
}

// valueAt is the position of a key's value: some kinds of node have none.
func (d *document) valueAt(node *unstable.Node) origin {
	var end int
	for it := node.Key(); it.Next(); {
		end = int(it.Node().Raw.Offset + it.Node().Raw.Length)
	}
	for end < len(d.data) && strings.IndexByte(" \t=", d.data[end]) >= 0 {
		end++
	}
	return d.origin(end)
}
