package config

import (
	"slices"
	"strings"

	"github.com/forkd/forkd/internal/control"
	"github.com/pelletier/go-toml/v2/unstable"
)

// schema is every key that a file may hold or will one day, by name.
type schema struct {
	keys        map[string]key
	listen      map[string]listenKey
	tables      []string // that hold keys which are built
	later       []string
	laterTables []string // that hold none
}

func newSchema() schema {
	s := schema{keys: map[string]key{}, listen: map[string]listenKey{}, later: later()}
	for _, k := range keys() {
		s.keys[k.name] = k
		if table, _, nested := strings.Cut(k.name, "."); nested && !slices.Contains(s.tables, table) {
			s.tables = append(s.tables, table)
		}
	}
	for _, k := range listenKeys() {
		s.listen[k.name] = k
	}
	for _, name := range s.later {
		if table, _, nested := strings.Cut(name, "."); nested &&
			!slices.Contains(s.tables, table) && !slices.Contains(s.laterTables, table) {
			s.laterTables = append(s.laterTables, table)
		}
	}
	return s
}

// isLater says whether a key or table is promised and not built.
func (s schema) isLater(name string) bool {
	return slices.Contains(s.later, name) || slices.Contains(s.laterTables, name)
}

// names are the keys of a table, "" for the top, in the contract's order.
func (s schema) names(table string) []string {
	var names []string
	for _, k := range keys() {
		if of, name := split(k.name); of == table {
			names = append(names, name)
		}
	}
	if table == "listen" {
		for _, k := range listenKeys() {
			names = append(names, k.name)
		}
	}
	return names
}

// split is a dotted key's table and name.
func split(key string) (table, name string) {
	if table, name, nested := strings.Cut(key, "."); nested {
		return table, name
	}
	return "", key
}

// everything is each dotted key and table that can be meant.
func (s schema) everything() []string {
	all := []string{"env", "listen"}
	for _, k := range keys() {
		all = append(all, k.name)
	}
	for _, k := range listenKeys() {
		all = append(all, "listen."+k.name)
	}
	return slices.Concat(all, s.tables, s.later, s.laterTables)
}

// refuse says what is wrong with a setting that the schema does not have.
func (s schema) refuse(wrong setting) *Error {
	name, at := wrong.name(), wrong.at()
	table := wrong.path[0].name
	isTable := slices.Contains(s.tables, table) || slices.Contains(s.laterTables, table)
	switch {
	case len(wrong.path) == 1 && wrong.form == unstable.ArrayTable && (isTable || table == "env"):
		return at.errorf("there is one %s only: write [%s]", table, table)
	case len(wrong.path) == 1 && wrong.form == unstable.KeyValue && (isTable || table == "env"):
		return at.errorf("%q is a table: write [%s] and its settings below", table, table)
	case table == "listen" && (len(wrong.path) == 1 || wrong.item < 0):
		return at.errorf("there can be several listeners: write [[listen]]")
	case len(wrong.path) > 1 && s.isKey(table):
		return at.errorf("%q is one value, not a table", table)
	}
	what := "key"
	if wrong.form != unstable.KeyValue {
		what = "table"
	}
	if len(wrong.path) > 1 && !isTable && table != "listen" {
		name, what, at = table, "table", wrong.path[0].at
	}
	if likely := s.likely(name); len(likely) > 0 {
		return at.errorf("unknown %s %q: did you mean %s?", what, name, either(likely))
	}
	if isTable || table == "listen" {
		return at.errorf("unknown %s %q: %s has %s", what, name, table, strings.Join(s.names(table), ", "))
	}
	return at.errorf("unknown %s %q: there are %s, and the tables env, listen, %s", what, name,
		strings.Join(s.names(""), ", "), strings.Join(s.tables, ", "))
}

func (s schema) hasListen(name string) bool {
	_, known := s.listen[name]
	return known
}

func (s schema) isKey(name string) bool {
	_, known := s.keys[name]
	return known || slices.Contains(s.later, name)
}

// likely are the keys probably meant: other programs' words for them, the same
// word in another table, or the nearest spelling, best in the same table.
func (s schema) likely(wrong string) []string {
	plain := strings.ReplaceAll(strings.ToLower(wrong), "-", "_")
	if known := synonym(plain); known != "" {
		return []string{known}
	}
	table, word := split(plain)
	var same, elsewhere []string
	for _, key := range s.everything() {
		of, name := split(key)
		switch {
		case of == table:
			same = append(same, name)
		case name == word:
			elsewhere = append(elsewhere, key)
		}
	}
	if near := nearest(word, same); near != "" && distance(word, near) <= 1 {
		return []string{qualified(table, near)}
	}
	if len(elsewhere) > 0 {
		return elsewhere
	}
	if near := nearest(word, same); near != "" {
		return []string{qualified(table, near)}
	}
	if near := nearest(plain, s.everything()); near != "" {
		return []string{near}
	}
	var words []string
	for _, key := range s.everything() {
		_, name := split(key)
		words = append(words, name)
	}
	near := nearest(word, words)
	var meant []string
	for _, key := range s.everything() {
		if _, name := split(key); near != "" && name == near {
			meant = append(meant, key)
		}
	}
	return meant
}

func qualified(table, name string) string {
	if table == "" {
		return name
	}
	return table + "." + name
}

// synonym is what other supervisors call a key: pm2, gunicorn, systemd,
// supervisord, Docker.
func synonym(word string) string {
	switch word {
	case "instances", "processes", "numprocs", "num_workers", "replicas", "scale":
		return "workers"
	case "cwd", "chdir", "working_directory", "workdir":
		return "directory"
	case "cmd", "exec", "script", "args", "exec_start", "program":
		return "command"
	case "port", "bind", "address", "socket", "listeners":
		return "listen.address"
	case "environment":
		return "env"
	case "environment_file":
		return "env_file"
	case "pidfile":
		return "pid_file"
	case "uid":
		return "user"
	case "gid":
		return "group"
	case "kill_signal", "stopsignal":
		return "stop_signal"
	case "kill_timeout", "graceful_timeout", "stop_grace_period":
		return "drain.timeout"
	case "max_restarts":
		return "restart.max_attempts"
	}
	return ""
}

// nearest is the word that wrong is probably a misspelling of, "" for none.
func nearest(wrong string, words []string) string {
	best, least := "", max(1, len(wrong)/3)+1
	for _, word := range words {
		if d := distance(wrong, word); d < least {
			best, least = word, d
		}
	}
	return best
}

// distance is how many letters must be added, taken away, replaced or swapped
// with their neighbour to make b of a.
func distance(a, b string) int {
	if len(a) > control.MaxName || len(b) > control.MaxName {
		return control.MaxName // nothing is that near
	}
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
