package config

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// setting is a key with its value, or the header of a table. Inline tables, dotted
// keys and [table] give the same settings.
type setting struct {
	path  []part
	item  int           // index of the [[table]] of path[0] that it belongs to, -1: none
	form  unstable.Kind // KeyValue, Table (an inline one too), ArrayTable
	value value
}

// part is one name of a dotted key.
type part struct {
	name string
	at   origin
}

// name is the dotted key. A part with a dot or a special character is quoted: the
// key "ready.mode", quotes included, is not ready.mode.
func (s setting) name() string {
	names := make([]string, len(s.path))
	for i, p := range s.path {
		names[i] = p.name
		if p.name == "" || strings.ContainsFunc(p.name, func(r rune) bool { return !inName(r) || r == '.' }) {
			names[i] = strconv.Quote(p.name)
		}
	}
	return strings.Join(names, ".")
}

// at is the position of the last name of its key.
func (s setting) at() origin { return s.path[len(s.path)-1].at }

// document reads the settings of a TOML file, in their order, from go-toml's syntax
// tree: a decoded value has no position, and no spelling of a number (0x10). go-toml
// checks the grammar and redefinitions.
type document struct {
	file     string
	data     []byte
	settings []setting
	seen     map[string]origin // by form, item and name
	items    map[string]int    // table array -> elements so far
	failed   *Error            // the first
}

// parse returns the settings of a file called name, or an *Error with the line at
// fault.
func parse(name string, data []byte) ([]setting, error) {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	// The parser finds the offset of a key by the capacity of its slice.
	data = bytes.Clone(data)[:len(data):len(data)]
	d := &document{file: name, data: data, seen: map[string]origin{}, items: map[string]int{}}
	d.checkText()
	d.read()
	if d.failed != nil {
		return nil, d.failed
	}
	return d.settings, nil
}

func (d *document) at(offset int) origin {
	return origin{file: d.file, text: d.data, offset: offset}
}

// fail keeps the first error. Reading ends with it.
func (d *document) fail(at origin, format string, args ...any) {
	if d.failed == nil {
		d.failed = at.errorf(format, args...)
	}
}

// checkText refuses binary files before the parser describes them byte by byte.
func (d *document) checkText() {
	if bytes.HasPrefix(d.data, []byte("\xff\xfe")) || bytes.HasPrefix(d.data, []byte("\xfe\xff")) {
		d.fail(d.at(0), "the file is UTF-16: save it as UTF-8")
	}
	for i := 0; i < len(d.data); {
		r, size := utf8.DecodeRune(d.data[i:])
		if r == 0 || r == utf8.RuneError && size == 1 {
			d.fail(d.at(i), "the file is not text: byte 0x%02x is not valid in UTF-8 TOML", d.data[i])
			return
		}
		i += size
	}
}

func (d *document) read() {
	var parser unstable.Parser
	var table []part
	item := -1
	parser.Reset(d.data)
	for d.failed == nil && parser.NextExpression() {
		node := parser.Expression()
		if node.Kind == unstable.KeyValue {
			d.keyValue(table, item, node)
			continue
		}
		table = d.key(node.Key())
		item = d.open(table, node.Kind)
	}
	if d.failed == nil {
		d.check(parser.Error())
	}
}

// open adds a table's header, and returns the element that the settings after it
// belong to.
func (d *document) open(path []part, form unstable.Kind) int {
	name := path[0].name
	if form == unstable.ArrayTable && len(path) == 1 {
		d.items[name]++
	}
	item := d.items[name] - 1
	d.add(setting{path: path, item: item, form: form})
	return item
}

// check lets go-toml decode the whole file, for syntax errors and for redefinitions
// that add does not see.
func (d *document) check(syntax error) {
	var all map[string]any
	err := toml.Unmarshal(d.data, &all)
	if err == nil {
		err = syntax
	}
	if err == nil {
		return
	}
	offset := 0
	if wrong, ok := errors.AsType[*toml.DecodeError](err); ok {
		row, column := wrong.Position()
		for range row - 1 {
			offset += bytes.IndexByte(d.data[offset:], '\n') + 1
		}
		offset = min(offset+max(column, 1)-1, len(d.data))
	}
	d.fail(d.at(offset), "not valid TOML: %s", strings.TrimPrefix(err.Error(), "toml: "))
}

// keyValue adds `key = value`, and the settings inside a table or a list of tables.
func (d *document) keyValue(table []part, item int, node *unstable.Node) {
	path := slices.Concat(table, d.key(node.Key()))
	inside := func(item int, table *unstable.Node) {
		for it := table.Children(); d.failed == nil && it.Next(); {
			d.keyValue(path, item, it.Node())
		}
	}
	switch v := node.Value(); {
	case v.Kind == unstable.InlineTable:
		d.add(setting{path: path, item: item, form: unstable.Table})
		inside(item, v)
	case len(path) == 1 && listOfTables(v):
		for it := v.Children(); d.failed == nil && it.Next(); {
			inside(d.open(path, unstable.ArrayTable), it.Node())
		}
	default:
		s := setting{path: path, item: item, form: unstable.KeyValue}
		at := d.valueAt(node)
		at.label = s.name()
		s.value = d.value(v, at)
		d.add(s)
	}
}

func listOfTables(node *unstable.Node) bool {
	if node.Kind != unstable.Array || node.Child() == nil {
		return false
	}
	for it := node.Children(); it.Next(); {
		if it.Node().Kind != unstable.InlineTable {
			return false
		}
	}
	return true
}

const (
	maxNames    = 8     // of a key; a setting has two at most
	maxSettings = 4_000 // go-toml compares every two keys of a table
)

// add keeps a setting, once.
func (d *document) add(s setting) {
	switch {
	case len(d.settings) == maxSettings:
		d.fail(s.at(), "the file has over %d settings: is it the right one?", maxSettings)
		return
	case len(s.path) > maxNames:
		d.fail(s.path[maxNames].at, "the key is nested too deep: no setting has more than two names, as ready.timeout")
		return
	}
	id := fmt.Sprint(s.form, s.item, s.name())
	if before, twice := d.seen[id]; twice && s.form != unstable.ArrayTable {
		line, _ := before.position()
		d.fail(s.at(), "%q is written twice: it is in line %d already", s.name(), line)
	}
	d.seen[id] = s.at()
	d.settings = append(d.settings, s)
}

func (d *document) key(it unstable.Iterator) []part {
	var path []part
	for it.Next() {
		node := it.Node()
		path = append(path, part{name: string(node.Data), at: d.at(int(node.Raw.Offset))})
	}
	return path
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
	return d.at(end)
}
