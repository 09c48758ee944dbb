package config

import "github.com/spf13/pflag"

// Flags holds the settings of the command line by key, without flags that were not
// given. The zero value can be registered, or loaded without flags.
type Flags struct {
	file  string             // -c
	given map[string][]value // by key, in the order given
}

// Register declares the flags on fs. Load checks their values.
func (f *Flags) Register(fs *pflag.FlagSet) {
	fs.StringVarP(&f.file, "config", "c", "", "read the settings from `FILE`; - is standard input")
	f.given = map[string][]value{}
	declare := func(key, flag, usage string) {
		fs.Func(flag, usage, func(word string) error {
			f.given[key] = append(f.given[key], value{kind: typed, text: word, at: origin{label: "--" + flag}})
			return nil
		})
	}
	for _, k := range flagKeys(new(draft)) {
		declare(k.name, k.flag, k.usage)
	}
	declare("listen", "listen", "take connections on `ADDRESS`: 8080, tcp6://[::1]:8080, unix:///run/shop.sock (repeatable)")
	declare("env", "env", "set `NAME=VALUE` for the workers (repeatable)")
}
