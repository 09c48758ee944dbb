package main

import (
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A contender is a row of docs/peers.md: a program with two workers under a master, by
// program.own, which is forkd in the rows that the others are compared with.
type contender struct {
	program
	beside  string    // the row under forkd that it is compared with; "": it is one
	release string    // what a deploy replaces
	broken  [2]string // by what: a release that crashes, one that never listens
	status  []string  // nil: nobody can be asked
	daemon  string    // a file with its master's pid; "": the master is what was started
	restart bool      // it has no reload: a deploy stops and starts it
}

// underForkd is a contender whose master is forkd.
func underForkd(c contender, words ...string) contender {
	c.own = &own{
		command: append([]string{"$BIN/forkd", "run", "--name", appName, "--workers", "2", "--ready-timeout", "10s"}, words...),
		by:      []string{"$BIN/forkd", "reload", "--keep-config", appName},
		stop:    []string{"$BIN/forkd", "stop", appName},
	}
	c.command, c.status = c.own.command, []string{"$BIN/forkd", "status", appName}
	return c
}

func contenders() []contender {
	// Each gets a program of one kind, and its two broken releases.
	binary := func(file string) contender {
		return contender{
			program: program{version: "go version", prepare: []string{"cp", "$BIN/" + file, "$DIR/server"}},
			release: "$DIR/server", broken: [2]string{"#!/bin/sh\necho cannot start >&2\nexit 1\n", "#!/bin/sh\nexec sleep 1000\n"},
		}
	}
	node := contender{
		program: program{version: "node --version", prepare: []string{"cp", "$EXAMPLES/node-http/server.js", "$DIR/server.js"}, env: []string{"PORT=$PORT"}},
		release: "$DIR/server.js", broken: [2]string{"throw new Error('cannot start')\n", "setInterval(() => {}, 1000)\n"},
	}
	python := contender{
		program: program{version: "gunicorn --version", prepare: []string{"cp", "$EXAMPLES/python-gunicorn/app.py", "$DIR/app.py"}, env: []string{"PYTHONDONTWRITEBYTECODE=1"}},
		release: "$DIR/app.py", broken: [2]string{"raise RuntimeError('cannot start')\n", "import time\ntime.sleep(1000)\n"},
	}
	ruby := contender{
		program: program{version: "puma --version", prepare: []string{"cp", "$EXAMPLES/ruby-puma/config.ru", "$DIR/config.ru"}},
		release: "$DIR/config.ru", broken: [2]string{"raise 'cannot start'\n", "sleep 1000\n"},
	}
	nginx := contender{
		program: program{version: "nginx -v", files: []string{"nginx.conf"}, prepare: []string{
			"sed", "-i", `s|listen .*;|listen 127.0.0.1:$PORT reuseport; location = / { return 200 "$pid says hello\\n"; }|`, "$DIR/nginx.conf",
		}},
		release: "$DIR/nginx.conf", broken: [2]string{"events {\n", "pid $DIR/nginx.pid;\nevents {}\nhttp { server { listen 127.0.0.1:$FRONT; } }\n"},
	}
	named := func(c contender, name, beside string, o own) contender {
		c.name, c.beside, c.command, c.own = name, beside, o.command, &o
		return c
	}
	forkdOf := func(c contender, name string, words ...string) contender {
		c.name = "forkd with " + name
		return underForkd(c, words...)
	}

	prefork := named(binary("bench-peer"), "fasthttp prefork", "forkd with fasthttp",
		own{command: []string{"$DIR/server", "-listen", "127.0.0.1:$PORT"}})
	prefork.env, prefork.restart = []string{"GOMAXPROCS=2"}, true // a process for each

	pm2 := named(node, "pm2", "forkd with Node", own{
		command: []string{"$BIN/.npm/node_modules/.bin/pm2", "start", "$DIR/server.js", "-i", "2", "--name", appName},
		by:      []string{"$BIN/.npm/node_modules/.bin/pm2", "reload", appName},
		stop:    []string{"$BIN/.npm/node_modules/.bin/pm2", "kill"},
	})
	pm2.version = "$BIN/.npm/node_modules/pm2/package.json"
	pm2.daemon, pm2.status = "$DIR/pm2/pm2.pid", []string{"$BIN/.npm/node_modules/.bin/pm2", "ls"}

	control := []string{"pumactl", "-C", "unix://$DIR/control", "-T", "token"}
	puma := named(ruby, "puma", "forkd with gunicorn", own{
		command: []string{"puma", "-C", "$PROGRAMS/puma.rb", "-p", "$PORT", "--control-url", "unix://$DIR/control", "--control-token", "token"},
		by:      append(slices.Clip(control), "phased-restart"),
	})
	puma.status = append(slices.Clip(control), "stats")

	uwsgi := named(python, "uWSGI", "forkd with gunicorn", own{
		command: []string{
			"uwsgi_python3", "--http-socket", "127.0.0.1:$PORT", "--module", "app:app", "--master", "--processes", "2", "--die-on-term",
			"--disable-logging", "--lazy-apps", "--master-fifo", "$DIR/fifo", "--stats", "$DIR/stats",
		},
		by: []string{"sh", "-c", "echo c >$DIR/fifo"}, // a chain reload: one worker after the other
	})
	uwsgi.version = "uwsgi_python3 --version"
	uwsgi.status = []string{"uwsgi_python3", "--connect-and-read", "$DIR/stats"}

	return []contender{
		forkdOf(binary("example-fasthttp"), "fasthttp", "--listen", "127.0.0.1:$PORT", "--", "$DIR/server"),
		forkdOf(node, "Node", "--", "node", "$DIR/server.js"),
		forkdOf(python, "gunicorn", "--", "gunicorn", "--threads", "8", "-b", "127.0.0.1:$PORT", "app:app"),
		named(nginx, "nginx reuseport", "forkd with fasthttp", own{
			command: []string{"nginx", "-c", "$DIR/nginx.conf", "-g", "daemon off; worker_processes 2;"},
			by:      []string{"nginx", "-c", "$DIR/nginx.conf", "-s", "reload"},
		}),
		prefork,
		named(node, "Node cluster", "forkd with Node", own{command: []string{"node", "$PROGRAMS/cluster.js", "$DIR/server.js"}, reload: syscall.SIGHUP}),
		pm2,
		named(python, "gunicorn", "forkd with gunicorn", own{
			command: []string{"gunicorn", "-w", "2", "--threads", "8", "-b", "127.0.0.1:$PORT", "app:app"}, reload: syscall.SIGHUP,
		}),
		puma,
		uwsgi,
	}
}

// how is how a deploy is asked for.
func (c contender) how() string {
	switch {
	case c.restart:
		return "stop and start"
	case c.own.by != nil:
		return "`" + strings.Join(c.own.by, " ") + "`"
	default:
		return unix.SignalName(c.own.reload) + " to the master"
	}
}
