package config

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Variables of the master's environment in values of the file: only text comes of
// them, of whatever type the key wants.
func TestVariables(t *testing.T) {
	h := newHost(t)
	file := filepath.Join(h.directory, "forkd.toml")
	set := map[string]string{"APP": "shop", "N": "3", "YES": "true", "EMPTY": "", "JSON": `{"a": "${N}"}`, "TOML": "\"]\nuser = \"root", "LONG": strings.Repeat("x", 1<<20)}
	h.env = func(name string) (string, bool) { text, ok := set[name]; return text, ok }
	for content, want := range map[string]string{
		`name = "${APP}-${N}"`:                        `name shop-3`,
		`name = "${APP}-${N}" # and where from`:       `name shop-3`,
		`name = "${NONE:-other}"`:                     `name other`,
		`name = "${EMPTY:-other}"`:                    `name other`,
		`name = "${APP:-other}"`:                      `name shop`,
		`pid_file = "${EMPTY}"`:                       `pid_file `,
		`workers = "${N}"`:                            `workers 3`,
		`workers = "${NONE:-cpus*2+1}"`:               `workers cpus*2+1 (9)`,
		`restart.max_attempts = "${N}"`:               `restart.max_attempts 3`,
		`drain.timeout = "${N}s"`:                     `drain.timeout 3s`,
		`redis.control = "${YES}"`:                    `redis.control true`,
		`redis.url = "redis://:${APP}@h"`:             `redis.url redis://:***@h`,
		`name = "${NONE:-a${N}}"`:                     `1:8: name: ${ begins a variable of forkd's environment: write ${NAME} or ${NAME:-DEFAULT}, or $${ for ${ itself`,
		`listen = [{name = "a", address = "${N}80"}]`: `listen.a.address tcp://:380`,
		`command = ["x", "${JSON}", "$${N}", "$N"]`:   `command x "{{\"a\": \"${{N}\"}" ${{N} $N`,
		`command = ["x", "${TOML}"]`:                  `command x "\"]\nuser = \"root"`,
		`env_file = "-${APP}.env"`:                    `env_file -DIR/shop.env`,
		`env_file = ["-${APP}.env", "-b.env"]`:        `env_file -DIR/shop.env -DIR/b.env`,
		`env.A = "${JSON}"`:                           `A={{"a": "${{N}"}`,
		`env = { A = "$${N} ${N}" }`:                  `A=${{N} 3`,
		`name = "${NONE}"`:                            `1:8: name: NONE is not set in forkd's environment: set it, write ${NONE:-DEFAULT}, or $${NONE} to leave it to the program`,
		`command = ["x", "${NONE}"]`:                  `1:17: command: NONE is not set in forkd's environment: set it, write ${NONE:-DEFAULT}, or $${NONE} to leave it to the program`,
		"[env]\nA = '${NONE}'":                        `2:5: env.A: NONE is not set in forkd's environment: set it, write ${NONE:-DEFAULT}, or $${NONE} to leave it to the program`,
		"[[listen]]\naddress = '${NONE}'":             `2:11: listen.address: NONE is not set in forkd's environment: set it, write ${NONE:-DEFAULT}, or $${NONE} to leave it to the program`,
		`name = "${APP"`:                              `1:8: name: ${ begins a variable of forkd's environment: write ${NAME} or ${NAME:-DEFAULT}, or $${ for ${ itself`,
		`name = "${APP:?no}"`:                         `1:8: name: ${ begins a variable of forkd's environment: write ${NAME} or ${NAME:-DEFAULT}, or $${ for ${ itself`,
		`name = "${1}"`:                               `1:8: name: ${ begins a variable of forkd's environment: write ${NAME} or ${NAME:-DEFAULT}, or $${ for ${ itself`,
		`workers = "${APP}"`:                          `1:11: workers: "shop" is no number of workers: use 1 to 1024, "cpus", "cpus-1", "cpus*2+1" or "50%"`,
		`restart.max_attempts = "3"`:                  `1:24: restart.max_attempts: must be a number from 0 to 1000000, not "3" in quotes`,
		`redis.control = "${N}"`:                      `1:17: redis.control: must be true or false, not "3"`,
		`pid_file = "${LONG}${LONG}"`:                 `1:12: pid_file: brings what comes of variables in this file to over 1 MiB`,
		`command = ["x", "${LONG}", "${LONG}"]`:       `1:28: command: brings what comes of variables in this file to over 1 MiB`,
		`"${APP}" = 1`:                                `1:1: unknown key "\"${APP}\"": `,
	} {
		if !strings.Contains(content, "command") {
			content += "\ncommand = ['x']"
		}
		write(t, file, content)
		cfg, err := h.load(&Flags{}, "", nil)
		var all []string
		for name, value := range cfg.Env {
			all = append(all, fmt.Sprintf("%s=%s", name, value))
		}
		for _, s := range cfg.Settings {
			all = append(all, s.Key+" "+s.Value)
		}
		if err != nil {
			all = []string{strings.TrimPrefix(err.Error(), "forkd.toml:")}
		}
		want = strings.ReplaceAll(want, "DIR", h.directory)
		key, _, _ := strings.Cut(want, " ")
		got := slices.DeleteFunc(all, func(text string) bool { return err == nil && !strings.HasPrefix(text, key[:1]) })
		if !slices.Contains(got, want) && (err == nil || !strings.HasPrefix(got[0], want)) {
			t.Errorf("%s:\ngot  %.2000q\nwant %s", content, got, want)
		}
	}
}

// A flag has no variables: the shell has replaced them.
func TestVariablesOfFlags(t *testing.T) {
	if _, err := newHost(t).load(typedFlags(t, "--name", "${A}"), "", []string{"x"}); err == nil {
		t.Error("a flag is expanded")
	}
}
