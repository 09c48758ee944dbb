package main

import "syscall"

// A program is one row. In its words and files $PORT is the port that it shall serve,
// $FRONT another one, $DIR the row's own directory, $EXAMPLES, $PROGRAMS and $BIN what
// they are called in the module.
type program struct {
	name    string
	version string // a command that prints it; a file: a package.json
	command []string
	in      string   // the directory that it runs in; "": $DIR
	env     []string // beside the environment
	files   []string // of $PROGRAMS, copied to $DIR with the words above replaced
	prepare []string // a command to run once before
	slow    *slow    // how it takes 3 s to boot; nil: a shell waits before it
	own     *own     // its own master; nil: it has none
	front   []string // a server before it, which the clients ask, at $FRONT
	needs   string   // what its configuration has for forkd's sake

	declared bool // it listens where it is told, and has to be told: --listen always
	job      bool // it serves nobody
	drains   bool // it finishes, at its stop signal, what it has accepted
	keeps    bool // a roll is to cost its keep-alive clients nothing
}

func (p program) label() string { return p.name }

// slow is what differs where a program takes 3 s to boot.
type slow struct {
	command []string
	env     []string
}

// own is the reload that a program has by itself, or by pm2.
type own struct {
	command []string
	reload  syscall.Signal // to its master; done when none of the master's old children is left
	by      []string       // in place of a signal: a command, done when it returns
	stop    []string       // in place of TERM
}

// what the programs of one language share.
func programs() []program {
	python := []string{"PYTHONDONTWRITEBYTECODE=1", "PYTHONPATH=$PROGRAMS"}
	wsgi := func(p program) program {
		p.in, p.env = "$EXAMPLES/python-gunicorn", python
		return p
	}
	asgi := func(p program) program {
		p.in, p.env = "$EXAMPLES/python-uvicorn", python
		return p
	}
	rack := func(p program) program {
		p.in = "$EXAMPLES/ruby-puma"
		return p
	}
	booting := func(words ...string) *slow { return &slow{command: words} }
	node := func(name, version string, words ...string) program {
		env := []string{"PORT=$PORT", "NODE_PATH=$BIN/.npm/node_modules"}
		return program{
			name: name, version: version, command: words, env: env, drains: true, keeps: true,
			slow: &slow{command: words, env: []string{"NODE_OPTIONS=--require $PROGRAMS/slow.js"}},
			own: &own{
				command: []string{"$BIN/.npm/node_modules/.bin/pm2", "start", words[len(words)-1], "-i", "2", "--name", "compat"},
				by:      []string{"$BIN/.npm/node_modules/.bin/pm2", "reload", "compat"},
				stop:    []string{"$BIN/.npm/node_modules/.bin/pm2", "kill"},
			},
		}
	}
	module := func(name string) string { return "$BIN/.npm/node_modules/" + name + "/package.json" }

	npm := node("npm start", "npm --version", "npm", "start")
	npm.in, npm.own = "$PROGRAMS/npm-start", nil

	return []program{
		wsgi(program{
			name: "gunicorn sync", version: "gunicorn --version", drains: true,
			command: []string{"gunicorn", "-b", "127.0.0.1:$PORT", "app:app"},
			slow:    booting("gunicorn", "-b", "127.0.0.1:$PORT", "slow:app"),
			own:     &own{command: []string{"gunicorn", "-w", "2", "-b", "127.0.0.1:$PORT", "app:app"}, reload: syscall.SIGHUP},
		}),
		wsgi(program{
			name: "gunicorn gthread", version: "gunicorn --version", drains: true, keeps: true,
			command: []string{"gunicorn", "--threads", "8", "-b", "127.0.0.1:$PORT", "app:app"},
			slow:    booting("gunicorn", "--threads", "8", "-b", "127.0.0.1:$PORT", "slow:app"),
			own:     &own{command: []string{"gunicorn", "-w", "2", "--threads", "8", "-b", "127.0.0.1:$PORT", "app:app"}, reload: syscall.SIGHUP},
		}),
		asgi(program{
			name: "gunicorn UvicornWorker", version: "gunicorn --version", drains: true, keeps: true,
			command: []string{"gunicorn", "-k", "uvicorn.workers.UvicornWorker", "-b", "127.0.0.1:$PORT", "app:app"},
			slow:    booting("gunicorn", "-k", "uvicorn.workers.UvicornWorker", "-b", "127.0.0.1:$PORT", "slow:app"),
			own: &own{
				command: []string{"gunicorn", "-w", "2", "-k", "uvicorn.workers.UvicornWorker", "-b", "127.0.0.1:$PORT", "app:app"},
				reload:  syscall.SIGHUP,
			},
		}),
		asgi(program{
			name: "uvicorn", version: "uvicorn --version", drains: true, keeps: true,
			command: []string{"uvicorn", "--no-access-log", "--port", "$PORT", "app:app"},
			slow:    booting("uvicorn", "--no-access-log", "--port", "$PORT", "slow:app"),
		}),
		asgi(program{
			name: "hypercorn", version: "dpkg-query -W python3-hypercorn", // closes what it has accepted and not read from yet
			command: []string{"hypercorn", "-b", "127.0.0.1:$PORT", "app:app"},
			slow:    booting("hypercorn", "-b", "127.0.0.1:$PORT", "slow:app"),
		}),
		asgi(program{
			name: "daphne", version: "dpkg-query -W daphne",
			command: []string{"daphne", "-p", "$PORT", "app:app"},
			slow:    booting("daphne", "-p", "$PORT", "slow:app"),
		}),
		wsgi(program{
			name: "waitress", version: "dpkg-query -W python3-waitress",
			command: []string{"waitress-serve", "--port=$PORT", "app:app"},
			slow:    booting("waitress-serve", "--port=$PORT", "slow:app"),
		}),
		wsgi(program{
			name: "uwsgi", version: "uwsgi_python3 --version",
			command: []string{"uwsgi_python3", "--http-socket", "127.0.0.1:$PORT", "--module", "app:app"},
			slow:    booting("uwsgi_python3", "--http-socket", "127.0.0.1:$PORT", "--module", "slow:app"),
			own: &own{
				command: []string{"uwsgi_python3", "--http-socket", "127.0.0.1:$PORT", "--module", "app:app", "--master", "--processes", "2", "--die-on-term"},
				reload:  syscall.SIGHUP,
			},
		}),
		{
			name: "python3 -m http.server", version: "/usr/bin/python3 --version", in: "$DIR/www",
			command: []string{"/usr/bin/python3", "-m", "http.server", "$PORT"},
		},
		rack(program{
			name: "puma", version: "puma --version", // cuts one now and then, in its own phased restart too
			command: []string{"puma", "-p", "$PORT"}, slow: booting("puma", "-p", "$PORT", "$PROGRAMS/slow.ru"),
			own: &own{command: []string{"puma", "-C", "$PROGRAMS/puma.rb", "-p", "$PORT"}, reload: syscall.SIGUSR1},
		}),
		rack(program{
			name: "unicorn", version: "unicorn --version", drains: true,
			command: []string{"unicorn", "-p", "$PORT"}, slow: booting("unicorn", "-p", "$PORT", "$PROGRAMS/slow.ru"),
			own: &own{command: []string{"unicorn", "-p", "$PORT", "-c", "$PROGRAMS/unicorn.rb"}, reload: syscall.SIGHUP},
		}),
		rack(program{
			name: "thin", version: "thin --version",
			command: []string{"thin", "-p", "$PORT", "start"}, slow: booting("thin", "-p", "$PORT", "-R", "$PROGRAMS/slow.ru", "start"),
		}),
		node("node http", "node --version", "node", "$EXAMPLES/node-http/server.js"),
		node("express", module("express"), "node", "$EXAMPLES/node-express/server.js"),
		node("fastify", module("fastify"), "node", "$PROGRAMS/fastify.js"),
		node("koa", module("koa"), "node", "$PROGRAMS/koa.js"),
		node("NestJS", module("@nestjs/core"), "node", "$PROGRAMS/nest.js"),
		npm,
		{
			name: "php -S", version: "php --version", in: "$EXAMPLES/php",
			command: []string{"php", "-S", "127.0.0.1:$PORT"},
		},
		{
			name: "php-fpm behind nginx", version: "php-fpm8.2 --version", drains: true,
			files:   []string{"fpm.conf", "front.conf"},
			command: []string{"php-fpm8.2", "-F", "-y", "$DIR/fpm.conf"},
			front:   []string{"nginx", "-c", "$DIR/front.conf"},
			own:     &own{command: []string{"php-fpm8.2", "-F", "-y", "$DIR/fpm.conf"}, reload: syscall.SIGUSR2},
		},
		{
			name: "nginx", version: "nginx -v", files: []string{"nginx.conf"}, drains: true,
			command: []string{"nginx", "-c", "$DIR/nginx.conf", "-g", "daemon off;"},
			own:     &own{command: []string{"nginx", "-c", "$DIR/nginx.conf", "-g", "daemon off; worker_processes 2;"}, reload: syscall.SIGHUP},
		},
		{
			name: "haproxy", version: "haproxy -v", files: []string{"haproxy.cfg"}, drains: true,
			command: []string{"haproxy", "-f", "$DIR/haproxy.cfg"},
			own:     &own{command: []string{"haproxy", "-W", "-f", "$DIR/haproxy.cfg"}, reload: syscall.SIGUSR2},
		},
		{
			name: "lighttpd", version: "lighttpd -v", files: []string{"lighttpd.conf"}, drains: true,
			command: []string{"lighttpd", "-D", "-f", "$DIR/lighttpd.conf"},
		},
		{
			name: "apache2", version: "apache2 -v", files: []string{"apache.conf"}, drains: true,
			needs:   "a PidFile of each worker's own, by ${FORKD_SLOT} and ${FORKD_GENERATION}: it does not start beside another's",
			command: []string{"apache2", "-D", "FOREGROUND", "-f", "$DIR/apache.conf"},
			own:     &own{command: []string{"apache2", "-D", "FOREGROUND", "-f", "$DIR/apache.conf"}, reload: syscall.SIGUSR1},
		},
		{
			name: "caddy", version: "caddy version", drains: true,
			command: []string{"caddy", "file-server", "--listen", "127.0.0.1:$PORT", "--root", "$DIR/www"},
			env:     []string{"HOME=$DIR"},
		},
		{
			name: "node-exporter", version: "prometheus-node-exporter --version",
			command: []string{"prometheus-node-exporter", "--web.listen-address=127.0.0.1:$PORT"},
		},
		{
			name: "java", version: "java -version", files: []string{"Server.java"},
			prepare: []string{"javac", "$DIR/Server.java"},
			command: []string{"java", "-cp", "$DIR", "Server", "$PORT"},
		},
		{
			name: "Go net/http", version: "go version",
			command: []string{"$BIN/example-go-static", "127.0.0.1:$PORT"},
		},
		{
			name: "Go with forkd's package", version: "go version", declared: true, drains: true, keeps: true,
			command: []string{"$BIN/example-nethttp"},
		},
		{
			name: "job loop", version: "/usr/bin/python3 --version", job: true, drains: true,
			command: []string{"/usr/bin/python3", "$EXAMPLES/job/job.py", "$DIR"},
		},
	}
}
