package config

import (
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// Flags holds the settings of the command line by key, without flags that were not
// given. The zero value can be registered, or loaded without flags.
type Flags struct {
	file  string              // -c
	given map[string][]string // by key, in the order given
}

// Register declares the flags on fs. Load checks their values.
func (f *Flags) Register(fs *pflag.FlagSet) {
	fs.StringVarP(&f.file, "config", "c", "", "read the settings from `FILE`; - is standard input")
	for _, k := range flagKeys(new(draft)) {
		fs.Var(&flag{into: f, key: k.name}, k.flag, k.usage)
	}
	fs.Var(&flag{into: f, key: "listen"}, "listen", "take connections on `ADDRESS`: 8080, tcp6://[::1]:8080, unix:///run/shop.sock (repeatable)")
	fs.Var(&flag{into: f, key: "env"}, "env", "set `NAME=VALUE` for the workers (repeatable)")
}

// clone is a copy that later changes of f do not reach.
func (f *Flags) clone() *Flags {
	given := make(map[string][]string, len(f.given))
	for key, words := range f.given {
		given[key] = slices.Clone(words)
	}
	return &Flags{file: f.file, given: given}
}

// flag is a pflag.Value that notes what was given.
type flag struct {
	into *Flags
	key  string
}

func (f *flag) Set(word string) error {
	if f.into.given == nil {
		f.into.given = map[string][]string{}
	}
	f.into.given[f.key] = append(f.into.given[f.key], word)
	return nil
}

func (f *flag) String() string {
	if f.into == nil { // pflag asks a zero flag for its default
		return ""
	}
	return strings.Join(f.into.given[f.key], " ")
}

func (f *flag) Type() string { return "value" }
