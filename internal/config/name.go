package config

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/forkd/forkd/internal/control"
)

// launcher is an interpreter, or a program that runs a command: an app takes its name
// from the script or command. Lists are separated by spaces.
type launcher struct {
	programs string // a version may follow: python3.12
	word     string // before the command: "exec" of bundle
	valued   string // options with a value in the next argument
	runs     string // options whose value names the program: -m of python
	inline   string // options whose value is program text
	command  bool   // it runs a command, not a script
}

func launchers() []launcher {
	return []launcher{
		{programs: "env", valued: "-u --unset -C --chdir -S --split-string", command: true},
		{programs: "nohup setsid npx bunx nice stdbuf", valued: "-n -i -o -e", command: true},
		{programs: "bundle", word: "exec", command: true},
		{programs: "uv poetry pipenv pdm rye hatch", word: "run", command: true},
		{programs: "bun deno", word: "run", inline: "-e --eval"},
		{programs: "node nodejs tsx ts-node", valued: "-r --require --import --loader -C --conditions --env-file --title", inline: "-e --eval -p --print"},
		{programs: "python pypy", valued: "-W -X", runs: "-m", inline: "-c"},
		{programs: "ruby", valued: "-r -I -E -C", inline: "-e"},
		{programs: "perl", valued: "-I", inline: "-e -E"},
		{programs: "php", valued: "-d -c -t -S -z", runs: "-f --file", inline: "-r --run"},
		{programs: "java", valued: "-cp -classpath --class-path -p --module-path --add-modules --add-opens --add-exports", runs: "-jar -m --module"},
		{programs: "dotnet lua luajit Rscript"},
		{programs: "sh bash dash zsh ksh", valued: "-o +o -euo -eo", inline: "-c -lc -ec"},
	}
}

func has(list, word string) bool { return slices.Contains(strings.Fields(list), word) }

// commandName names a command: the base name of its program, or of the script or
// command that the program runs. directory is the working directory.
func commandName(command []string, directory string) string {
	if len(command) == 0 {
		return ""
	}
	program, args := filepath.Base(command[0]), command[1:]
	for _, l := range launchers() {
		if has(l.programs, program) || has(l.programs, strings.TrimRight(program, "0123456789.")) {
			if name := l.name(args, directory); name != "" {
				return name
			}
			return program
		}
	}
	return withoutExtension(program)
}

// name is the name of the script or command, "" if there is none in args.
func (l launcher) name(args []string, directory string) string {
	if l.command && l.word != "" && (len(args) == 0 || args[0] != l.word) {
		return "" // bundle install
	}
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		switch {
		case has(l.inline, arg) || arg == "-":
			return ""
		case has(l.runs, arg) && len(args) > 0:
			return withoutExtension(filepath.Base(args[0]))
		case l.runs == "-m" && strings.HasPrefix(arg, "-m"): // python3 -mgunicorn
			return arg[len("-m"):]
		case has(l.valued, arg):
			args = args[min(1, len(args)):]
		case arg == l.word, strings.HasPrefix(arg, "-"), strings.HasPrefix(arg, "+"), l.programs == "env" && strings.Contains(arg, "="):
			// An option, or a variable.
		case l.command:
			return commandName(append([]string{arg}, args...), directory)
		case filepath.IsAbs(arg):
			return withoutExtension(filepath.Base(arg))
		default:
			return withoutExtension(filepath.Base(filepath.Join(directory, arg))) // "." is the directory
		}
	}
	return ""
}

func withoutExtension(file string) string {
	extension := filepath.Ext(file)
	if has(".js .mjs .cjs .ts .mts .py .pyc .pyz .rb .php .pl .sh .jar .dll .lua .R .ru", extension) {
		return strings.TrimSuffix(file, extension)
	}
	return file
}

// inName reports whether a name may contain r after its first character.
func inName(r rune) bool { return control.ValidName("a" + string(r)) }

// asName makes a valid name of any text, other if no character is valid.
func asName(text, other string) string {
	name := strings.Map(func(r rune) rune {
		if inName(r) {
			return r
		}
		return '-'
	}, text)
	name = strings.TrimLeft(name, "._-")
	name = strings.TrimRight(name[:min(len(name), control.MaxName)], "._-")
	if name == "" {
		return other
	}
	return name
}
