package config

import (
	"path/filepath"
	"slices"
	"strings"
)

// interpreter is a program that is known by what it runs.
type interpreter struct {
	names  []string // a version may follow: python3.12, php8.2
	valued []string // options whose value is the next argument
	module []string // options whose value is what runs, as -m of python
	inline []string // options whose value is a program's text: there is no script
	shell  bool     // one-letter options are written together: -euo pipefail, -lc '...'
}

func interpreters() []interpreter {
	return []interpreter{
		{
			names:  []string{"node", "nodejs", "tsx", "ts-node"},
			valued: []string{"-r", "--require", "--import", "--loader", "--experimental-loader", "-C", "--conditions", "--env-file", "--title"},
			inline: []string{"-e", "--eval", "-p", "--print"},
		},
		{names: []string{"bun", "deno"}, inline: []string{"-e", "--eval"}},
		{
			names:  []string{"python", "pypy"},
			valued: []string{"-W", "-X", "--check-hash-based-pycs"},
			module: []string{"-m"},
			inline: []string{"-c"},
		},
		{names: []string{"ruby"}, valued: []string{"-r", "-I", "-E", "-C"}, inline: []string{"-e"}},
		{
			names:  []string{"php"},
			valued: []string{"-d", "-c", "-t", "-S", "-z", "--define", "--php-ini", "--docroot", "--server"},
			module: []string{"-f", "--file"},
			inline: []string{"-r", "--run"},
		},
		{names: []string{"perl"}, valued: []string{"-I"}, inline: []string{"-e", "-E"}},
		{
			names:  []string{"java"},
			valued: []string{"-cp", "-classpath", "--class-path", "-p", "--module-path", "--add-modules", "--add-opens", "--add-exports"},
			module: []string{"-jar", "-m", "--module"},
		},
		{names: []string{"dotnet", "lua", "luajit", "Rscript"}},
		{names: []string{"sh", "bash", "dash", "zsh", "ksh"}, valued: []string{"-o", "+o"}, inline: []string{"-c"}, shell: true},
	}
}

// named says whether program is the interpreter, in whatever version.
func (i interpreter) named(program string) bool {
	return slices.Contains(i.names, program) || slices.Contains(i.names, strings.TrimRight(program, "0123456789."))
}

// inside returns what follows a program that only runs another: `env A=1 x`,
// `bundle exec x`. ok is false for every other program.
func inside(command []string) (rest []string, ok bool) {
	program, rest := filepath.Base(command[0]), command[1:]
	switch program {
	case "env":
		return afterEnv(rest), true
	case "nohup", "setsid", "npx", "bunx":
		return afterOptions(rest, nil), true
	case "nice":
		return afterOptions(rest, []string{"-n"}), true
	case "stdbuf":
		return afterOptions(rest, []string{"-i", "-o", "-e"}), true
	case "bundle":
		return afterWord(rest, "exec")
	case "uv", "poetry", "pipenv", "pdm", "rye", "hatch":
		return afterWord(rest, "run")
	case "deno", "bun":
		if rest, ok := afterWord(rest, "run"); ok {
			return append([]string{program}, rest...), true
		}
	}
	return nil, false
}

// afterEnv skips the options and variables of env(1); -S splits one argument
// into several, as a script's first line needs it.
func afterEnv(args []string) []string {
	for len(args) > 0 {
		arg := args[0]
		if line, split := strings.CutPrefix(arg, "--split-string="); split {
			return afterEnv(append(strings.Fields(line), args[1:]...))
		}
		switch {
		case arg == "-S" || arg == "--split-string":
			if len(args) > 1 {
				return afterEnv(append(strings.Fields(args[1]), args[2:]...))
			}
			return nil
		case strings.HasPrefix(arg, "-S"):
			return afterEnv(append(strings.Fields(arg[2:]), args[1:]...))
		case slices.Contains([]string{"-u", "--unset", "-C", "--chdir"}, arg):
			args = args[min(2, len(args)):]
		case strings.HasPrefix(arg, "-") || strings.Contains(arg, "="):
			args = args[1:]
		default:
			return args
		}
	}
	return nil
}

func afterOptions(args, valued []string) []string {
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		skip := 1
		if slices.Contains(valued, args[0]) {
			skip = 2
		}
		args = args[min(skip, len(args)):]
	}
	return args
}

func afterWord(args []string, word string) ([]string, bool) {
	if len(args) < 2 || args[0] != word {
		return nil, false
	}
	return afterOptions(args[1:], nil), true
}

// commandName is what a command is called: its program's base name, or where
// that is an interpreter the script's. directory is where it runs.
func commandName(command []string, directory string) string {
	if len(command) == 0 {
		return ""
	}
	program := filepath.Base(command[0])
	if rest, ok := inside(command); ok && len(rest) > 0 {
		return commandName(rest, directory)
	}
	for _, i := range interpreters() {
		if i.named(program) {
			if name := i.script(command[1:], directory); name != "" {
				return name
			}
			return program
		}
	}
	return withoutExtension(program)
}

// script finds what an interpreter runs, "" where it is no file or module.
func (i interpreter) script(args []string, directory string) string {
	for len(args) > 0 {
		arg := args[0]
		if i.shell && len(arg) > 2 && (arg[0] == '-' || arg[0] == '+') && arg[1] != '-' {
			arg = arg[:1] + arg[len(arg)-1:]
		}
		switch {
		case slices.Contains(i.inline, arg):
			return ""
		case slices.Contains(i.module, arg) && len(args) > 1:
			return withoutExtension(filepath.Base(args[1]))
		case i.attached(arg) != "": // python3 -mgunicorn
			return withoutExtension(filepath.Base(i.attached(arg)))
		case slices.Contains(i.valued, arg):
			args = args[min(2, len(args)):]
			continue
		case arg == "-": // the program's text comes from stdin
			return ""
		case strings.HasPrefix(arg, "-") || strings.HasPrefix(arg, "+"):
			args = args[1:]
			continue
		}
		if !filepath.IsAbs(arg) { // "." is the directory
			arg = filepath.Join(directory, arg)
		}
		return withoutExtension(filepath.Base(arg))
	}
	return ""
}

// attached is the value of a one-letter option of i.module that is written
// without a space.
func (i interpreter) attached(arg string) string {
	for _, option := range i.module {
		if value, ok := strings.CutPrefix(arg, option); ok && len(option) == len("-m") {
			return value
		}
	}
	return ""
}

// withoutExtension takes off what says only which language it is written in.
func withoutExtension(file string) string {
	switch extension := filepath.Ext(file); extension {
	case ".js", ".mjs", ".cjs", ".ts", ".mts", ".py", ".pyc", ".pyz", ".rb", ".php", ".pl", ".sh", ".jar", ".dll", ".lua", ".R", ".ru":
		return strings.TrimSuffix(file, extension)
	}
	return file
}
