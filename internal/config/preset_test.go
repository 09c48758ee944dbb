package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What is known of a program, however it is started, and of no other.
func TestPresets(t *testing.T) {
	for command, want := range map[string]string{
		"nginx -g daemon\toff;":                 "nginx QUIT",
		"/usr/sbin/nginx1.22":                   "nginx QUIT",
		"env -u A B=1 nohup openresty":          "nginx QUIT",
		"haproxy -f haproxy.cfg":                "haproxy USR1",
		"haproxy -Ws -f haproxy.cfg":            "haproxy USR1 notifies",
		"lighttpd -D -f lighttpd.conf":          "lighttpd INT",
		"php-fpm8.2 -F":                         "php-fpm QUIT blocking",
		"php-fpm -F":                            "php-fpm QUIT blocking",
		"php -S :8080":                          "TERM",
		"uwsgi --http-socket :80 --master":      "uwsgi INT",
		"uwsgi -M":                              "uwsgi INT",
		"uwsgi --http-socket :80":               "TERM",
		"uwsgi --master --die-on-term":          "TERM",
		"apache2 -DFOREGROUND":                  "apache WINCH",
		"httpd -k start -D FOREGROUND":          "apache WINCH",
		"httpd -D OTHER":                        "TERM",
		"unicorn -p 80":                         "unicorn QUIT",
		"bundle exec unicorn_rails":             "unicorn QUIT",
		"ruby /usr/bin/unicorn":                 "unicorn QUIT",
		"ruby unicorn":                          "TERM",
		"celery -A app worker":                  "celery TERM",
		"python3.12 -m celery":                  "celery TERM",
		"python3 -m gunicorn app:app":           "gunicorn TERM preload",
		"gunicorn app:app":                      "gunicorn TERM preload",
		"opentelemetry-instrument uvicorn a:b":  "uvicorn TERM preload",
		"uv run fastapi run":                    "uvicorn TERM preload",
		"python3 app.py":                        "TERM",
		"bundle exec puma":                      "TERM",
		"node server.js":                        "node TERM preload",
		"/usr/bin/node20 .":                     "node TERM preload",
		"node nginx":                            "node TERM preload",
		"npm start":                             "node TERM preload",
		"npm exec -- next start":                "node TERM preload",
		"npx next start":                        "node TERM preload",
		"yarn run serve":                        "node TERM preload",
		"node_modules/.bin/next start":          "node TERM preload",
		"env NODE_ENV=production node --x x.js": "node TERM preload",
		"java -jar shop.jar":                    "TERM",
		"ruby app.rb":                           "TERM",
		"./shop":                                "TERM",
	} {
		h := newHost(t)
		cfg, err := h.load(typedFlags(t, "--listen=8080"), "", strings.Split(command, " "))
		if err != nil {
			t.Fatal(err)
		}
		got := []string{cfg.Preset.Name, show(cfg.StopSignal)}
		for word, holds := range map[string]bool{"blocking": !cfg.Listeners[0].Nonblocking, "notifies": cfg.Preset.Notifies, "preload": cfg.Preset.Drains != ""} {
			if holds {
				got = append(got, word)
			}
		}
		if got := strings.TrimSpace(strings.Join(got, " ")); got != want {
			t.Errorf("%s: %s, not %s", command, got, want)
		}
	}
}

// What the user has written holds, and describe says what is whose.
func TestPresetsYield(t *testing.T) {
	const php = "command = ['php-fpm8.2']\nlisten = [{ address = 1 }, { address = 2, nonblocking = true }]\n"
	for content, want := range map[string]string{
		php: "preset = auto (php-fpm) (default), stop_signal = QUIT (preset php-fpm), " +
			"listen.1.nonblocking = false (preset php-fpm), listen.2.nonblocking = true (FILE:2)",
		php + "stop_signal = 'TERM'": "preset = auto (php-fpm) (default), stop_signal = TERM (FILE:3), " +
			"listen.1.nonblocking = false (preset php-fpm), listen.2.nonblocking = true (FILE:2)",
		php + "preset = 'none'": "preset = none (FILE:3), stop_signal = TERM (default), " +
			"listen.1.nonblocking = true (default), listen.2.nonblocking = true (FILE:2)",
		"command = ['./start-web']\npreset = 'nginx'": "preset = nginx (FILE:2), stop_signal = QUIT (preset nginx)",
		"command = ['uwsgi']\npreset = 'uwsgi'":       "preset = uwsgi (FILE:2), stop_signal = INT (preset uwsgi)",
		"command = ['node', 'x.js']":                  "preset = auto (node), with forkd's drain for node (default), stop_signal = TERM (default)",
	} {
		cfg, _, err := loadFile(t, content)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range cfg.Settings {
			if s.Key == "preset" || s.Key == "stop_signal" || strings.HasSuffix(s.Key, ".nonblocking") {
				got = append(got, s.Key+" = "+s.Value+" ("+strings.Replace(s.Source, cfg.File, "FILE", 1)+")")
			}
		}
		if diff := cmp.Diff(want, strings.Join(got, ", ")); diff != "" {
			t.Errorf("%s: %s", content, diff)
		}
	}
}
