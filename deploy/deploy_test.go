// Package deploy_test checks what people copy from this directory.
package deploy_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// promtool runs Prometheus's own checks.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("promtool", args...).CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func TestRules(t *testing.T) {
	promtool(t, "check", "rules", "--lint-fatal", "prometheus/forkd.rules.yml")
	promtool(t, "test", "rules", "prometheus/forkd.rules.test.yml")
}

// Each alert is in a test of the rules.
func TestRulesAreTested(t *testing.T) {
	tests := read(t, "prometheus/forkd.rules.test.yml")
	alerts := regexp.MustCompile(`(?m)- alert: (\w+)$`).FindAllStringSubmatch(read(t, "prometheus/forkd.rules.yml"), -1)
	if len(alerts) == 0 {
		t.Error("there are no alerts")
	}
	for _, alert := range alerts {
		if !regexp.MustCompile(`\b` + alert[1] + `\b`).MatchString(tests) {
			t.Errorf("no test of %s", alert[1])
		}
	}
}

// expressions are the queries of a dashboard, its variables and annotations.
func expressions(t *testing.T, dashboard string) (found []string) {
	t.Helper()
	var d struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
		Annotations struct{ List []struct{ Expr string } }
		Templating  struct{ List []struct{ Definition string } }
	}
	if err := json.Unmarshal([]byte(dashboard), &d); err != nil {
		t.Fatal(err)
	}
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			found = append(found, target.Expr)
		}
	}
	for _, a := range d.Annotations.List {
		found = append(found, a.Expr)
	}
	for _, v := range d.Templating.List {
		found = append(found, v.Definition)
	}
	return found
}

// Prometheus can read every query of the dashboard.
func TestDashboardQueries(t *testing.T) {
	var rules strings.Builder
	rules.WriteString("groups: [{name: queries, rules: [\n")
	queries := 0
	for _, e := range expressions(t, read(t, "grafana/forkd.json")) {
		if e == "" || strings.HasPrefix(e, "label_values(") {
			continue
		}
		queries++
		text, err := json.Marshal(strings.ReplaceAll(e, "$__rate_interval", "1m"))
		if err != nil {
			t.Fatal(err)
		}
		rules.WriteString("{record: x:y, labels: {n: '" + strings.Repeat("x", queries) + "'}, expr: " + string(text) + "},\n")
	}
	rules.WriteString("]}]\n")
	if queries < 20 {
		t.Errorf("only %d queries", queries)
	}
	file := filepath.Join(t.TempDir(), "queries.yml")
	if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "rules", file)
}

// Every metric and label that stands here is one of docs/monitoring.md, or of the rules.
func TestNames(t *testing.T) {
	labels := map[string][]string{} // by metric
	for _, m := range regexp.MustCompile("(?m)^\\| `(forkd_\\w+)\\{([a-z,]*)\\}` \\|").FindAllStringSubmatch(read(t, "../docs/monitoring.md"), -1) {
		labels[m[1]] = strings.Split(m[2], ",")
	}
	rules := read(t, "prometheus/forkd.rules.yml")
	for _, m := range regexp.MustCompile(`(?m)record: (\S+)$`).FindAllStringSubmatch(rules, -1) {
		labels[m[1]] = nil
	}
	var of []string
	for _, m := range regexp.MustCompile(`(?m)expr: (.*)$`).FindAllStringSubmatch(rules, -1) {
		of = append(of, m[1])
	}
	used := map[string]bool{}
	for _, e := range append(of, expressions(t, read(t, "grafana/forkd.json"))...) {
		for _, m := range regexp.MustCompile(`((?:\w+:)?forkd_\w+(?::\w+)?)(?:\{([^}]*)\})?`).FindAllStringSubmatch(e, -1) {
			used[m[1]] = true
			known, ok := labels[m[1]]
			if !ok {
				t.Errorf("%s: there is no metric %s", e, m[1])
			}
			for _, matcher := range regexp.MustCompile(`(\w+)[!=]`).FindAllStringSubmatch(m[2], -1) {
				if label := matcher[1]; label != "instance" && !slices.Contains(known, label) {
					t.Errorf("%s: %s has no label %s", e, m[1], label)
				}
			}
		}
	}
	for name := range labels {
		if !used[name] && strings.HasPrefix(name, "forkd_") {
			t.Errorf("%s is in no panel and no rule", name)
		}
	}
}
