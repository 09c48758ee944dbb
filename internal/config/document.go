package config

import (
	"bytes"
	"errors"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// setting is one line of the file: a key with its value, or a table's header.
// An inline table, a dotted key and a [table] come out the same.
type setting struct {
	path  []part
	item  int // which [[table]] of path[0] it belongs to, -1 outside of one
	form  form
	value value
}

// part is one name of a dotted key.
type part struct {
	name string
	at   origin
}

// form is what a setting is.
type form int

const (
	leaf        form = iota // key = value
	tableHeader             // [key], or an inline table's opening
	arrayHeader             // [[key]]
)

// name is the dotted key. A part that needs quotes has them, so that
// "ready.mode" in quotes is no setting's name.
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

// at is where its own name stands, without those of the tables around it.
func (s setting) at() origin { return s.path[len(s.path)-1].at }

// document reads a TOML file into settings, in their order. The grammar and
// the rules on redefinition are go-toml's; its syntax tree is read because
// decoding loses the places of values.
type document struct {
	file     string
	data     []byte
	lines    []int // offsets of their first bytes
	parser   unstable.Parser
	settings []setting
	seen     map[string]int // key -> line
	items    map[string]int // table array -> number of elements so far
	last     place          // the one asked for last
}

// place is a byte of the file and its column.
type place struct{ offset, column int }

// parse returns the settings of a file called name, or an *Error with the line
// at fault.
func parse(name string, data []byte) ([]setting, error) {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	// The syntax tree finds a part's place by the capacity of its slice.
	data = bytes.Clone(data)[:len(data):len(data)]
	d := &document{file: name, data: data, seen: map[string]int{}, items: map[string]int{}}
	d.lines = append(d.lines, 0)
	for i, b := range data {
		if b == '\n' {
			d.lines = append(d.lines, i+1)
		}
	}
	if err := d.checkText(); err != nil {
		return nil, err
	}
	if err := d.read(); err != nil {
		return nil, err
	}
	return d.settings, nil
}

// checkText refuses what is no text before a parser describes it byte by byte.
func (d *document) checkText() error {
	if bytes.HasPrefix(d.data, []byte("\xff\xfe")) || bytes.HasPrefix(d.data, []byte("\xfe\xff")) {
		return d.at(0).errorf("the file is UTF-16: save it as UTF-8")
	}
	for i := 0; i < len(d.data); {
		r, size := utf8.DecodeRune(d.data[i:])
		if r == 0 || r == utf8.RuneError && size == 1 {
			return d.at(i).errorf("the file is not text: byte 0x%02x is not valid in UTF-8 TOML", d.data[i])
		}
		i += size
	}
	return nil
}

func (d *document) read() error {
	var table []part
	item := -1
	d.parser.Reset(d.data)
	for d.parser.NextExpression() {
		node := d.parser.Expression()
		if node.Kind == unstable.KeyValue {
			if err := d.keyValue(table, item, node); err != nil {
				return err
			}
			continue
		}
		table = d.key(node.Key())
		shape := tableHeader
		if node.Kind == unstable.ArrayTable {
			shape = arrayHeader
		}
		item = d.open(table, shape)
		if err := d.add(setting{path: table, item: item, form: shape}); err != nil {
			return err
		}
	}
	return d.check()
}

// open returns the element that the settings after a header belong to.
func (d *document) open(path []part, shape form) int {
	name := path[0].name
	if shape == arrayHeader && len(path) == 1 {
		d.items[name]++
	}
	return d.items[name] - 1
}

// check has go-toml judge the whole file: syntax, and keys or tables written
// twice in ways that the walk does not see.
func (d *document) check() error {
	var all map[string]any
	err := toml.Unmarshal(d.data, &all)
	if err == nil {
		err = d.parser.Error()
	}
	if err == nil {
		return nil
	}
	at := d.at(0)
	if wrong, ok := errors.AsType[*toml.DecodeError](err); ok {
		row, column := wrong.Position()
		row = min(max(row, 1), len(d.lines))
		at = d.at(min(d.lines[row-1]+max(column, 1)-1, len(d.data)))
	}
	return at.errorf("not valid TOML: %s", strings.TrimPrefix(err.Error(), "toml: "))
}

// keyValue adds `key = value` under a table, and what is inside of it where
// the value is a table or a list of tables.
func (d *document) keyValue(table []part, item int, node *unstable.Node) error {
	path := slices.Concat(table, d.key(node.Key()))
	if len(table) == 0 {
		item = -1
	}
	return d.assign(path, item, node.Value(), d.valueAt(node))
}

func (d *document) assign(path []part, item int, node *unstable.Node, at origin) error {
	switch {
	case node.Kind == unstable.InlineTable:
		if err := d.add(setting{path: path, item: item, form: tableHeader}); err != nil {
			return err
		}
		return d.members(path, item, node)
	case len(path) == 1 && listOfTables(node):
		for it := node.Children(); it.Next(); {
			item := d.open(path, arrayHeader)
			if err := d.add(setting{path: path, item: item, form: arrayHeader}); err != nil {
				return err
			}
			if err := d.members(path, item, it.Node()); err != nil {
				return err
			}
		}
		return nil
	default:
		return d.add(setting{path: path, item: item, form: leaf, value: d.value(node, at)})
	}
}

func (d *document) members(path []part, item int, table *unstable.Node) error {
	for it := table.Children(); it.Next(); {
		member := it.Node()
		if member.Kind != unstable.KeyValue {
			continue // a comment
		}
		inner := slices.Concat(path, d.key(member.Key()))
		if err := d.assign(inner, item, member.Value(), d.valueAt(member)); err != nil {
			return err
		}
	}
	return nil
}

func listOfTables(node *unstable.Node) bool {
	if node.Kind != unstable.Array {
		return false
	}
	some := false
	for it := node.Children(); it.Next(); {
		if it.Node().Kind != unstable.InlineTable {
			return false
		}
		some = true
	}
	return some
}

// deepest bounds how many names a key has, well over the two of any setting:
// every setting keeps those of the tables around it.
const deepest = 8

// maxSettings bounds how many there are: go-toml's check for keys written
// twice compares every two of a table.
const maxSettings = 4_000

// add keeps a setting, once.
func (d *document) add(s setting) error {
	if len(d.settings) == maxSettings {
		return s.at().errorf("the file has over %d settings: is it the right one?", maxSettings)
	}
	if len(s.path) > deepest {
		return s.path[deepest].at.errorf("the key is nested too deep: no setting has more than two names, as ready.timeout")
	}
	if s.form != arrayHeader {
		last := s.at()
		var id strings.Builder
		id.WriteByte(byte(s.form))
		id.WriteString(strings.Repeat("+", s.item+1))
		for _, p := range s.path {
			id.WriteByte(0)
			id.WriteString(p.name)
		}
		if line, twice := d.seen[id.String()]; twice {
			return last.errorf("%q is written twice: it is in line %d already", s.name(), line)
		}
		d.seen[id.String()] = last.line
	}
	d.settings = append(d.settings, s)
	return nil
}

func (d *document) key(it unstable.Iterator) []part {
	var path []part
	for it.Next() {
		node := it.Node()
		path = append(path, part{name: string(node.Data), at: d.at(int(node.Raw.Offset))})
	}
	return path
}

// value copies a node out of the parser, whose memory the next expression
// takes over.
func (d *document) value(node *unstable.Node, at origin) value {
	v := value{at: at, text: string(node.Data)}
	switch node.Kind {
	case unstable.String:
		v.kind = text
	case unstable.Integer:
		v.kind = integer
	case unstable.Bool:
		v.kind = boolean
	case unstable.Array:
		v.kind = list
		for it := node.Children(); it.Next(); {
			item := it.Node()
			if item.Kind == unstable.Comment {
				continue
			}
			at := at
			if item.Raw.Length > 0 {
				at = d.at(int(item.Raw.Offset))
			}
			v.items = append(v.items, d.value(item, at))
		}
	default:
		v.kind = other
	}
	return v
}

// valueAt is where the value of a key-value node begins: some kinds of node do
// not know it themselves.
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

// at is the place of a byte. Places are asked for from left to right, so a
// long line is counted once.
func (d *document) at(offset int) origin {
	line, found := slices.BinarySearch(d.lines, offset)
	if found {
		line++
	}
	from := place{offset: d.lines[line-1], column: 1}
	if d.last.offset > from.offset && d.last.offset <= offset {
		from = d.last
	}
	d.last = place{offset: offset, column: from.column + utf8.RuneCount(d.data[from.offset:offset])}
	return origin{file: d.file, line: line, column: d.last.column}
}
