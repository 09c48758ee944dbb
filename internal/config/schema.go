package config

import (
	"cmp"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/forkd/forkd/internal/control"
)

type schema struct {
	keys   map[string]key
	names  []string // dotted, those of [[listen]] too, in the contract's order
	tables []string // except env and listen
}

func newSchema(d *draft) schema {
	s := schema{keys: map[string]key{}}
	for _, k := range keys(d) {
		s.keys[k.name] = k
		s.names = append(s.names, k.name)
		if table, _ := split(k.name); table != "" && !slices.Contains(s.tables, table) {
			s.tables = append(s.tables, table)
		}
	}
	for _, k := range listenKeys(new(listener)) {
		s.names = append(s.names, "listen."+k.name)
	}
	return s
}

// split splits a dotted key into table, "" for none, and name.
func split(key string) (table, name string) {
	i := strings.IndexByte(key, '.')
	return key[:max(i, 0)], key[i+1:]
}

// in lists the keys of a table, "" for the top.
func (s schema) in(table string) string {
	var names []string
	for _, k := range s.names {
		if of, name := split(k); of == table {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

func (s schema) refuse(wrong setting) *Error {
	name, at := wrong.name, wrong.at
	table, top := wrong.path[0], len(wrong.path) == 1
	_, value := s.keys[table]
	single := table == "env" || slices.Contains(s.tables, table)
	switch {
	case top && single && wrong.form == unstable.ArrayTable:
		return at.errorf("there is one %s only: write [%s]", table, table)
	case top && single && wrong.form == unstable.KeyValue:
		return at.errorf("%q is a table: write [%s] and its settings below", table, table)
	case table == "listen" && (top || wrong.item < 0):
		return at.errorf("there can be several listeners: write [[listen]]")
	case !top && value:
		return at.errorf("%q is one value, not a table", table)
	}
	known := single || table == "listen"
	what := "table"
	if wrong.form == unstable.KeyValue {
		what = "key"
	}
	if !top && !known {
		name, what, at = table, "table", wrong.first
	}
	if likely := s.likely(name); len(likely) > 0 {
		return at.errorf("unknown %s %q: did you mean %s?", what, name, either(likely))
	}
	if known {
		return at.errorf("unknown %s %q: %s has %s", what, name, table, s.in(table))
	}
	return at.errorf("unknown %s %q: there are %s, and the tables env, listen, %s", what, name, s.in(""), strings.Join(s.tables, ", "))
}

// likely returns the keys that may be meant: another program's word for one, or the
// nearest spellings, in the nearest tables.
func (s schema) likely(wrong string) []string {
	plain := strings.ReplaceAll(strings.ToLower(wrong), "-", "_")
	for key, others := range synonyms() {
		if has(others, plain) {
			return []string{key}
		}
	}
	table, word := split(plain)
	var best []string
	least := control.MaxName
	for _, key := range slices.Concat([]string{"env", "listen"}, s.names, s.tables) {
		of, name := split(key)
		if distance(word, name) > tolerance(word) {
			continue
		}
		switch far := distance(word, name) + min(2, distance(table, of)); {
		case far < least:
			best, least = []string{key}, far
		case far == least:
			best = append(best, key)
		}
	}
	return best
}

// synonyms are words of pm2, gunicorn, systemd, supervisord and Docker, by key.
func synonyms() map[string]string {
	return map[string]string{
		"workers":              "instances processes numprocs num_workers replicas scale",
		"directory":            "cwd chdir working_directory workdir",
		"command":              "cmd exec script args exec_start program",
		"listen.address":       "port bind address socket listeners",
		"env":                  "environment",
		"env_file":             "environment_file",
		"pid_file":             "pidfile",
		"user":                 "uid",
		"group":                "gid",
		"stop_signal":          "kill_signal stopsignal",
		"drain.timeout":        "kill_timeout graceful_timeout stop_grace_period",
		"restart.max_attempts": "max_restarts",
	}
}

func tolerance(word string) int { return max(1, len(word)/3) }

// Nearest is the word that wrong may be a misspelling of, "" for none.
func Nearest(wrong string, words []string) string {
	if len(words) == 0 {
		return ""
	}
	best := slices.MinFunc(words, func(a, b string) int { return cmp.Compare(distance(wrong, a), distance(wrong, b)) })
	if distance(wrong, best) > tolerance(wrong) {
		return ""
	}
	return best
}

// distance is Levenshtein's: insertions, deletions and replacements.
func distance(a, b string) int {
	if len(a) > control.MaxName || len(b) > control.MaxName {
		return control.MaxName // nothing is that near
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			if a[i] != b[j] {
				diagonal++
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal)
		}
	}
	return row[len(b)]
}
