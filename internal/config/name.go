package config

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/forkd/forkd/internal/control"
)

// launcher is an interpreter, or a program that runs a command: an app takes its name
// from the script or command. Lists are separated by spaces.
type launcher struct {
	programs string // a version may follow: python3.12
	word     string // one of these is before the command: "exec" of bundle
	valued   string // options with a value in the next argument
	runs     string // options whose value names the program: -m of python
	inline   string // options whose value is program text
	command  bool   // it runs a command, not a script
	of       bool   // without the word it runs what the package in the directory says: npm start
}

func launchers() []launcher {
	return []launcher{
		{programs: "env", valued: "-u --unset -C --chdir -S --split-string", command: true},
		{programs: "nohup setsid nice stdbuf tini dumb-init ddtrace-run opentelemetry-instrument", valued: "-n -i -o -e", command: true},
		{programs: "npx bunx", valued: "-p --package", command: true},
		{programs: "bundle", word: "exec", command: true},
		{programs: "uv poetry pipenv pdm rye hatch", word: "run", command: true},
		{programs: "npm yarn pnpm", word: "exec dlx", command: true, of: true},
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

// isProgram reports whether a base name is one of a list, also with a version behind it:
// python3.12, php-fpm8.2.
func isProgram(list, name string) bool {
	return has(list, name) || has(list, strings.TrimRight(name, "0123456789."))
}

// program is a program or script that a command names.
type program struct {
	name string // base name
	args []string
	own  bool // the user's own, whatever the name of its file or directory
}

// programs are those that a command names, each run by the one before: bundle, puma.
// directory is the working directory.
func programs(command []string, directory string) []program {
	if len(command) == 0 {
		return nil
	}
	p := program{name: filepath.Base(command[0]), args: command[1:]}
	for _, l := range launchers() {
		if isProgram(l.programs, p.name) {
			return append([]program{p}, l.inner(p.args, directory)...)
		}
	}
	return []program{p}
}

// commandName names a command: the base name of its program, or of the script or
// command that the program runs.
func commandName(command []string, directory string) string {
	all := programs(command, directory)
	if len(all) == 0 {
		return ""
	}
	return withoutExtension(all[len(all)-1].name)
}

// inner are the script or the programs of the command in args.
func (l launcher) inner(args []string, directory string) []program {
	if l.command && l.word != "" && (len(args) == 0 || !has(l.word, args[0])) {
		if l.of && len(args) > 0 { // npm start
			return []program{{filepath.Base(directory), args, true}}
		}
		return nil // bundle install
	}
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		switch {
		case has(l.inline, arg) || arg == "-":
			return nil
		case has(l.runs, arg) && len(args) > 0:
			return []program{{filepath.Base(args[0]), args[1:], l.runs != "-m"}}
		case l.runs == "-m" && strings.HasPrefix(arg, "-m"): // python3 -mgunicorn
			return []program{{arg[len("-m"):], args, false}}
		case has(l.valued, arg):
			args = args[min(1, len(args)):]
		case has(l.word, arg), strings.HasPrefix(arg, "-"), strings.HasPrefix(arg, "+"), l.programs == "env" && strings.Contains(arg, "="):
			// An option, or a variable.
		case l.command:
			return programs(append([]string{arg}, args...), directory)
		default:
			path := from(directory, arg) // "." is the directory
			return []program{{filepath.Base(path), args, !has("bin .bin", filepath.Base(filepath.Dir(path)))}}
		}
	}
	return nil
}

func withoutExtension(file string) string {
	extension := filepath.Ext(file)
	if has(".js .mjs .cjs .ts .mts .py .pyc .pyz .rb .php .pl .sh .jar .dll .lua .R .ru", extension) {
		return strings.TrimSuffix(file, extension)
	}
	return file
}

// Interpreter is what runs a script, by the name of its file; "": it has none.
func Interpreter(file string) string {
	return map[string]string{
		".js": "node", ".mjs": "node", ".cjs": "node", ".ts": "node", ".mts": "node", ".py": "python3", ".rb": "ruby", ".php": "php",
		".pl": "perl", ".sh": "sh", ".jar": "java -jar", ".dll": "dotnet", ".lua": "lua", ".R": "Rscript",
	}[filepath.Ext(file)]
}

// ScriptHint is how to run a file that has an Interpreter. Those of pm2's settings are none.
func ScriptHint(file string) string {
	if strings.HasPrefix(filepath.Base(file), "ecosystem.") {
		return "pm2's settings are no program: docs/from-pm2.md has what each is called here, and forkd start --write APP -- node server.js writes a file"
	}
	return fmt.Sprintf("write forkd run -- %s %s", Interpreter(file), file)
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
