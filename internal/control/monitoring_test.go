package control

import (
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/forkd/forkd/internal/openmetrics"
)

// docs/monitoring.md has all metrics by their samples' names and labels, in the order in
// which they are written.
func TestMonitoringNamesAllMetrics(t *testing.T) {
	doc, err := os.ReadFile("../../docs/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	f := known()
	text := appendMetrics(openmetrics.OpenMetrics, &f)
	var written []string
	for _, m := range regexp.MustCompile(`(?m)^(\w+)\{(.*)\}`).FindAllSubmatch(text, -1) {
		labels := regexp.MustCompile(`="[^"]*"`).ReplaceAll(m[2], nil)
		if name := string(m[1]) + "{" + string(labels) + "}"; !slices.Contains(written, name) {
			written = append(written, name)
		}
	}
	var described []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(forkd_[a-z_]+\\{[a-z,]*\\})` \\|").FindAllSubmatch(doc, -1) {
		if name := string(m[1]); !regexp.MustCompile(`^forkd_fleet_`).MatchString(name) {
			described = append(described, name)
		}
	}
	if diff := cmp.Diff(described, written); diff != "" {
		t.Errorf("(-docs/monitoring.md +/metrics)\n%s", diff)
	}
}
