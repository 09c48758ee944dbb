package deploy_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"go.yaml.in/yaml/v3"
)

// forkd is the program, built for this test.
func forkd(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "forkd")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "../cmd/forkd").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return bin
}

// command has forkd read a command line of a deployment: of `run` with the configuration
// that it names, of others the flags.
func command(t *testing.T, bin, config string, args, env []string) {
	t.Helper()
	args = slices.Clone(args)
	if args[0] == "run" {
		args[0] = "check"
		at := slices.Index(args, "-c") + 1
		if at == 0 {
			t.Fatalf("no -c in %q", args)
		}
		args[at] = filepath.Join(t.TempDir(), "forkd.toml")
		if err := os.WriteFile(args[at], []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(args, "--") {
			args = append(args, "--", "sh") // the program of the deployment is not here
		}
	} else {
		args = append(args, "--help") // flags are parsed before
	}
	cmd := exec.CommandContext(t.Context(), bin, args...)
	cmd.Env = append(env, "FORKD_RUNTIME_DIR="+t.TempDir(), "FORKD_STATE_DIR="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("forkd %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// policy are the flags of a command line that say how a fleet scales.
func policy(args []string) (found []string) {
	for i, arg := range args[:len(args)-1] {
		if arg == "--min-hosts" || arg == "--max-hosts" {
			found = append(found, arg+" "+args[i+1])
		}
	}
	return found
}

// drain is how long a configuration lets a stop last.
func drain(t *testing.T, config string) (sum time.Duration) {
	t.Helper()
	for _, key := range []string{"delay", "timeout"} {
		found := regexp.MustCompile(`(?m)^\s*` + key + ` = "(\w+)"`).FindStringSubmatch(config)
		if found == nil {
			t.Fatalf("no drain.%s in\n%s", key, config)
		}
		d, err := time.ParseDuration(found[1])
		if err != nil {
			t.Fatal(err)
		}
		sum += d
	}
	return sum
}

// compose is what is used of the Compose specification.
type compose struct {
	Name     string
	Host     any `yaml:"x-host"`
	Services map[string]struct {
		Image       string
		Build       struct{ Context, Dockerfile string }
		Hostname    string
		Entrypoint  []string
		Command     []string
		Environment map[string]string
		Volumes     []string
		Ports       []string
		Profiles    []string
		DependsOn   []string `yaml:"depends_on"`
		Grace       string   `yaml:"stop_grace_period"`
		Restart     string
		Stdin       bool `yaml:"stdin_open"`
	}
}

func TestCompose(t *testing.T) {
	var c compose
	decoder := yaml.NewDecoder(strings.NewReader(read(t, "compose/compose.yaml")))
	decoder.KnownFields(true)
	if err := decoder.Decode(&c); err != nil {
		t.Fatal(err)
	}
	bin, config := forkd(t), read(t, "compose/forkd.toml")
	var hosts []string
	var policies [][]string
	for name, s := range c.Services {
		if (s.Image == "") == (s.Build.Context == "") {
			t.Errorf("%s: one of image and build", name)
		}
		if s.Build.Context != "" {
			read(t, filepath.Join("compose", s.Build.Context, s.Build.Dockerfile))
		}
		for _, other := range s.DependsOn {
			if _, ok := c.Services[other]; !ok {
				t.Errorf("%s depends on %s, which is no service", name, other)
			}
		}
		for _, port := range s.Ports {
			if !strings.HasPrefix(port, "127.0.0.1:") {
				t.Errorf("%s: others than this machine can reach %s", name, port)
			}
		}
		for _, volume := range s.Volumes {
			read(t, filepath.Join("compose", strings.Split(volume, ":")[0]))
		}
		if s.Build.Context == "" || s.Entrypoint != nil {
			continue
		}
		var env []string
		for key, value := range s.Environment {
			env = append(env, key+"="+value)
		}
		command(t, bin, config, s.Command, env)
		if s.Command[0] != "run" {
			policies = append(policies, policy(s.Command))
			continue
		}
		hosts = append(hosts, name)
		if s.Hostname != name {
			t.Errorf("%s is called %s: Prometheus would not find it", name, s.Hostname)
		}
		if grace, err := time.ParseDuration(s.Grace); err != nil || grace <= drain(t, config) {
			t.Errorf("%s: stop_grace_period %s for drains of %v: %v", name, s.Grace, drain(t, config), err)
		}
	}
	if len(policies) != 2 || len(policies[0]) != 2 || !slices.Equal(policies[0], policies[1]) {
		t.Errorf("the adviser and the page have different policies: %q", policies)
	}
	var servers []string
	for _, m := range regexp.MustCompile(`(?m)^  server (\S+) (\S+):8080$`).FindAllStringSubmatch(read(t, "compose/haproxy.cfg"), -1) {
		servers = append(servers, m[1])
		if m[1] != m[2] {
			t.Errorf("HAProxy's server %s is %s", m[1], m[2])
		}
	}
	if slices.Sort(hosts); len(hosts) < 2 || !slices.Equal(servers, hosts) {
		t.Errorf("the hosts are %q, HAProxy's servers %q", hosts, servers)
	}
	for _, port := range []string{`address = ":8080"`, `address = ":9640"`, `address = ":9641"`} {
		if !strings.Contains(config, port) {
			t.Errorf("no %s for HAProxy", port)
		}
	}
}

// forkd knows the commands that people are told to type, and those of the units.
func TestCommands(t *testing.T) {
	bin := forkd(t)
	for file, pattern := range map[string]string{
		"compose/README.md":                `(?m)^    docker compose exec \S+ /forkd (.*?)(?:  .*)?$`,
		"../systemd/forkd-fleet.service":   `(?m)^ExecStart=/usr/bin/forkd (.*) \$\w+$`,
		"../systemd/forkd-advise@.service": `(?m)^ExecStart=/usr/bin/forkd (.*) \$\w+$`,
		"../systemd/forkd@.service":        `(?m)^ExecReload=/usr/bin/forkd (.*)$`,
	} {
		found := regexp.MustCompile(pattern).FindAllStringSubmatch(read(t, file), -1)
		if len(found) == 0 {
			t.Errorf("no command in %s", file)
		}
		for _, m := range found {
			command(t, bin, "", strings.Fields(strings.ReplaceAll(m[1], "%i", "shop")), nil)
		}
	}
}

// The packages that the image is made of are there.
func TestComposeImage(t *testing.T) {
	packages := regexp.MustCompile(`\./(?:cmd|examples)/\S+`).FindAllString(read(t, "compose/Dockerfile"), -1)
	if len(packages) != 3 {
		t.Errorf("it builds %q", packages)
	}
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list"}, packages...)...)
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestComposeHAProxy(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "haproxy", "-c", "-f", "compose/haproxy.cfg").CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("WARNING")) {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestComposePrometheus(t *testing.T) {
	dir := t.TempDir() // as Compose mounts them
	for _, file := range []string{"compose/prometheus.yml", "prometheus/forkd.rules.yml"} {
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(file)), []byte(read(t, file)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	promtool(t, "check", "config", "--lint-fatal", filepath.Join(dir, "prometheus.yml"))
}

// manifest is what is used of Kubernetes' and KEDA's kinds.
type manifest struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string
	Metadata   struct{ Name, Namespace string }
	Data       map[string]string
	Spec       struct {
		Replicas int
		Selector any
		Strategy any
		Ports    []struct {
			Port       int
			TargetPort string `yaml:"targetPort"`
		}
		Template struct {
			Metadata struct{ Labels map[string]string }
			Spec     struct {
				Grace      int `yaml:"terminationGracePeriodSeconds"`
				Volumes    any
				Containers []struct {
					Name, Image string
					Args        []string
					Env         []struct {
						Name, Value string
						ValueFrom   any `yaml:"valueFrom"`
					}
					Ports []struct {
						Name          string
						ContainerPort int `yaml:"containerPort"`
					}
					ReadinessProbe struct {
						HTTPGet          struct{ Path, Port string } `yaml:"httpGet"`
						PeriodSeconds    int                         `yaml:"periodSeconds"`
						FailureThreshold int                         `yaml:"failureThreshold"`
					} `yaml:"readinessProbe"`
					VolumeMounts any `yaml:"volumeMounts"`
				}
			}
		}
		ScaleTargetRef  struct{ Name string } `yaml:"scaleTargetRef"`
		MinReplicaCount int                   `yaml:"minReplicaCount"`
		MaxReplicaCount int                   `yaml:"maxReplicaCount"`
		PollingInterval int                   `yaml:"pollingInterval"`
		Triggers        []struct {
			Type       string
			MetricType string `yaml:"metricType"`
			Metadata   struct {
				URL           string
				ValueLocation string `yaml:"valueLocation"`
				TargetValue   string `yaml:"targetValue"`
			}
		}
		Advanced any
	}
}

func manifests(t *testing.T, path string) map[string]manifest {
	t.Helper()
	all := map[string]manifest{}
	decoder := yaml.NewDecoder(strings.NewReader(read(t, path)))
	decoder.KnownFields(true)
	for {
		var m manifest
		err := decoder.Decode(&m)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		id := m.Kind + "/" + m.Metadata.Name
		versions := map[string]string{"ConfigMap": "v1", "Service": "v1", "Deployment": "apps/v1", "ScaledObject": "keda.sh/v1alpha1"}
		if versions[m.Kind] != m.APIVersion || m.Metadata.Namespace != "default" {
			t.Errorf("%s: %s in %s", id, m.APIVersion, m.Metadata.Namespace)
		}
		all[id] = m
	}
}

func TestKEDA(t *testing.T) {
	all := manifests(t, "keda/scaledobject.yaml")
	scaled := all["ScaledObject/shop"].Spec
	app, served := all["Deployment/"+scaled.ScaleTargetRef.Name].Spec.Template.Spec, all["Deployment/forkd-fleet"].Spec.Template.Spec
	if len(all) != 7 || len(scaled.Triggers) != 1 || len(app.Containers) != 1 || len(served.Containers) != 1 {
		t.Fatalf("%d manifests, %+v", len(all), scaled)
	}
	bin, config := forkd(t), all["ConfigMap/shop"].Data["forkd.toml"]
	bounds := []string{fmt.Sprintf("--min-hosts %d", scaled.MinReplicaCount), fmt.Sprintf("--max-hosts %d", scaled.MaxReplicaCount)}
	for id, m := range all {
		for _, c := range m.Spec.Template.Spec.Containers {
			env := []string{"POD_IP=10.1.2.3"}
			for _, e := range c.Env {
				if e.Value != "" {
					env = append(env, e.Name+"="+e.Value)
				}
			}
			command(t, bin, config, c.Args, env)
			if c.Args[0] != "run" && !slices.Equal(policy(c.Args), bounds) {
				t.Errorf("%s: %q, and KEDA has %q", id, policy(c.Args), bounds)
			}
		}
	}

	if grace := time.Duration(app.Grace) * time.Second; grace <= drain(t, config) {
		t.Errorf("terminationGracePeriodSeconds %v for drains of %v", grace, drain(t, config))
	}
	if probe := app.Containers[0].ReadinessProbe; probe.HTTPGet.Path != "/healthz" || probe.PeriodSeconds*probe.FailureThreshold >= 10 {
		t.Errorf("the probe does not see drain.delay: %+v", probe)
	}

	// KEDA's request is answered, with the number.
	trigger := scaled.Triggers[0]
	if trigger.Type != "metrics-api" || trigger.MetricType != "AverageValue" || trigger.Metadata.TargetValue != "1" {
		t.Errorf("replicas are not hosts_wanted: %+v", trigger)
	}
	u, err := url.Parse(trigger.Metadata.URL)
	if err != nil {
		t.Fatal(err)
	}
	service, found := all["Service/"+strings.Split(u.Hostname(), ".")[0]]
	if !found || u.Port() != fmt.Sprint(service.Spec.Ports[0].Port) {
		t.Errorf("no service for %s", u)
	}
	answer := serve(t, bin, served.Containers[0].Args, u)
	if wanted, ok := answer[trigger.Metadata.ValueLocation].(float64); !ok || int(wanted) != scaled.MinReplicaCount {
		t.Errorf("%s of a fleet without hosts: %v", trigger.Metadata.ValueLocation, answer)
	}
}

// serve runs `forkd fleet serve` by its command line of a deployment, with a Redis and on an
// address of the test's, and returns what it answers to a request for u.
func serve(t *testing.T, bin string, args []string, u *url.URL) (answer map[string]any) {
	t.Helper()
	redis := miniredis.RunT(t)
	cmd := exec.CommandContext(t.Context(), bin, append(slices.Clone(args), "--listen", "127.0.0.1:0", "--redis", "redis://"+redis.Addr())...)
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(said)
	defer func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		for lines.Scan() {
			t.Log(lines.Text())
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("forkd fleet serve: %v", err)
		}
	}()
	var at []string
	for at == nil && lines.Scan() {
		at = regexp.MustCompile(`http://([\d.:]+)/`).FindStringSubmatch(lines.Text())
	}
	if at == nil {
		t.Fatal("it says no address")
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+at[1]+u.RequestURI(), nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Host = u.Host
	response, err := (&http.Client{Timeout: time.Minute}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %s %v", u, response.Status, body, err)
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

// block is the only block of a type in another.
func block(t *testing.T, in *hclsyntax.Body, path ...string) *hclsyntax.Body {
	t.Helper()
	for _, kind := range path {
		var found []*hclsyntax.Block
		for _, b := range in.Blocks {
			if b.Type == kind {
				found = append(found, b)
			}
		}
		if len(found) != 1 {
			t.Fatalf("%d blocks %s of %q", len(found), kind, path)
		}
		in = found[0].Body
	}
	return in
}

// attribute is the value of an attribute, as JSON has it.
func attribute(t *testing.T, in *hclsyntax.Body, name string) any {
	t.Helper()
	a := in.Attributes[name]
	if a == nil {
		t.Fatalf("no %s", name)
	}
	value, bad := a.Expr.Value(&hcl.EvalContext{})
	if bad.HasErrors() {
		t.Fatal(bad)
	}
	switch {
	case value.Type().FriendlyName() == "string":
		return value.AsString()
	case value.CanIterateElements():
		var list []string
		for _, v := range value.AsValueSlice() {
			list = append(list, v.AsString())
		}
		return list
	default:
		return value.AsBigFloat().String()
	}
}

func TestNomad(t *testing.T) {
	file, bad := hclparse.NewParser().ParseHCLFile("nomad/shop.nomad.hcl")
	if bad.HasErrors() {
		t.Fatal(bad)
	}
	group := block(t, file.Body.(*hclsyntax.Body), "job", "group")
	task, scaling := block(t, group, "task"), block(t, group, "scaling")
	check := block(t, scaling, "policy", "check")
	block(t, check, "strategy")
	if label := check.Blocks[0].Labels; !slices.Equal(label, []string{"pass-through"}) || attribute(t, check, "source") != "prometheus" {
		t.Errorf("the strategy is %q", label)
	}

	// Prometheus understands the query, and the metric is one of forkd's.
	query := attribute(t, check, "query").(string)
	rules, err := json.Marshal(query)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "query.yml")
	if err := os.WriteFile(path, []byte("groups: [{name: nomad, rules: [{record: 'x:y', expr: "+string(rules)+"}]}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "rules", path)
	metric := regexp.MustCompile(`forkd_\w+\{(\w+)=`).FindString(query)
	if name, _, _ := strings.Cut(metric, "="); name == "" || !strings.Contains(read(t, "../docs/monitoring.md"), "`"+name+"}`") {
		t.Errorf("%s is not in docs/monitoring.md", query)
	}

	data := attribute(t, block(t, task, "template"), "data").(string)
	values := map[string]string{"NOMAD_ADDR_ws": "10.0.0.7:20001", "NOMAD_ADDR_metrics": "10.0.0.7:20002", "NOMAD_ALLOC_ID": "5f6d3c1a-0b2e-4d55-9c1c-2a3b4c5d6e7f"}
	for name := range block(t, task, "env").Attributes {
		values[name] = attribute(t, block(t, task, "env"), name).(string)
	}
	config := regexp.MustCompile(`\{\{ env "(\w+)" \}\}`).ReplaceAllStringFunc(data, func(found string) string {
		return values[strings.Split(found, `"`)[1]]
	})
	command(t, forkd(t), config, attribute(t, block(t, task, "config"), "args").([]string), nil)
	if kill, err := time.ParseDuration(attribute(t, task, "kill_timeout").(string)); err != nil || kill <= drain(t, config) {
		t.Errorf("kill_timeout %v for drains of %v: %v", kill, drain(t, config), err)
	}
	if attribute(t, scaling, "min") != attribute(t, group, "count") {
		t.Error("it starts with another number than the least")
	}
}
