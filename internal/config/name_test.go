package config

import (
	"strings"
	"testing"

	"github.com/forkd/forkd/internal/control"
)

func TestAsName(t *testing.T) {
	for text, want := range map[string]string{
		"shop":                         "shop",
		"my shop!":                     "my-shop",
		".hidden":                      "hidden",
		"--":                           "app",
		"":                             "app",
		"größe":                        "gr--e",
		"shop-{slot}":                  "shop--slot",
		strings.Repeat("a", 60):        strings.Repeat("a", 48),
		strings.Repeat("a", 47) + ".b": strings.Repeat("a", 47),
	} {
		got := asName(text, "app")
		if got != want || !control.ValidName(got) {
			t.Errorf("%q becomes %q, not %q", text, got, want)
		}
	}
}

func FuzzAsName(f *testing.F) {
	f.Add("a b")
	f.Fuzz(func(t *testing.T, text string) {
		if name := asName(text, "app"); !control.ValidName(name) || asName(name, "app") != name {
			t.Errorf("%q becomes %q", text, name)
		}
	})
}

func TestCommandName(t *testing.T) {
	for command, want := range map[string]string{
		"./bin/shop --port 80": "shop",
		"shop.sh":              "shop",
		"nginx1.22":            "nginx1.22",
		"gunicorn app:wsgi":    "gunicorn",
		"node app.js":          "app",
		"/usr/bin/node20 --inspect -r dotenv/config dist/shop.mjs": "shop",
		"node -e 1":                           "node",
		"node":                                "node",
		"node .":                              "release",
		"node ..":                             "srv",
		"python3 shop.py":                     "shop",
		"python3.12 -u -m gunicorn app:wsgi":  "gunicorn",
		"python3 -muvicorn app:asgi":          "uvicorn",
		"python3 -m http.server":              "http.server",
		"python3 -W ignore -c pass":           "python3",
		"python3 -":                           "python3",
		"pypy3 shop.py":                       "shop",
		"bundle exec puma -C config.rb":       "puma",
		"bundle exec ruby shop.rb":            "shop",
		"bundle install":                      "bundle",
		"ruby -Ilib -r bundler/setup shop.rb": "shop",
		"php shop.php":                        "shop",
		"php -d memory_limit=1G -f shop.php":  "shop",
		"php8.2 -S 127.0.0.1:80 -t public":    "php8.2",
		"php artisan serve":                   "artisan",
		"php-fpm8.2 -F":                       "php-fpm8.2",
		"java -Xmx1g -jar target/shop.jar":    "shop",
		"java -cp a.jar:b.jar com.shop.Main":  "com.shop.Main",
		"perl -T shop.pl":                     "shop",
		"dotnet Shop.dll":                     "Shop",
		"bash -euo pipefail run.sh":           "run",
		"bash -lc ./shop":                     "bash",
		"bash --login run.sh":                 "run",
		"bash run.sh":                         "run",
		"deno run -A main.ts":                 "main",
		"bun server.ts":                       "server",
		"npm start":                           "release",
		"npm run serve":                       "release",
		"npm exec next start":                 "next",
		"yarn start":                          "release",
		"npx --yes -p next next start":        "next",
		"tini -- node app.js":                 "app",
		"npm":                                 "npm",
		"npx tsx server.ts":                   "server",
		"uv run gunicorn app:wsgi":            "gunicorn",
		"poetry run python -m flask run":      "flask",
		"env A=1 -u B node app.js":            "app",
		"env":                                 "env",
		"nice -n 5 ./shop":                    "shop",
		"stdbuf -oL ./shop":                   "shop",
		"/usr/bin/nohup node app.js":          "app",
	} {
		if got := commandName(strings.Fields(command), "/srv/release"); got != want {
			t.Errorf("%s is called %q, not %q", command, got, want)
		}
	}
}
