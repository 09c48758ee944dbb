package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

// A trio is three servers, of which one is the primary, under three Sentinels
// that call it "fleet".
type trio struct {
	servers   []*server
	sentinels []*server
}

// startTrio starts one. The lines are for the servers, not for the Sentinels; with
// an authority all of them speak TLS only.
func startTrio(t testing.TB, ca *authority, lines ...string) *trio {
	t.Helper()
	g := &trio{}
	var secure []string
	if ca != nil {
		secure = []string{"tls-replication yes"}
	}
	for range 3 {
		address := someAddress()
		host, port, _ := strings.Cut(address, ":")
		config := append([]string{"replica-announce-ip " + host, "replica-announce-port " + port, "bind-source-addr " + host}, lines...)
		config = append(config, secure...)
		if len(g.servers) > 0 {
			config = append(config, "replicaof "+g.servers[0].host()+" "+g.servers[0].port())
		}
		g.servers = append(g.servers, start(t, options{address: address, config: config, secure: ca}))
	}
	for range 3 {
		address := someAddress()
		host, port, _ := strings.Cut(address, ":")
		primary := g.servers[0]
		g.sentinels = append(g.sentinels, start(t, options{address: address, sentinel: true, secure: ca, config: append([]string{
			"sentinel announce-ip " + host, "sentinel announce-port " + port,
			fmt.Sprintf("sentinel monitor fleet %s %s 2", primary.host(), primary.port()),
			"sentinel down-after-milliseconds fleet 1000",
			"sentinel failover-timeout fleet 5000",
		}, secure...)}))
	}
	for _, s := range g.sentinels {
		// As often as they do in a minute they look in a few seconds; a machine that
		// stalls doesn't make them hold still for half a minute.
		s.do("SENTINEL", "DEBUG", "INFO-PERIOD", "200", "PUBLISH-PERIOD", "200", "TILT-PERIOD", "1000")
	}
	for _, s := range g.sentinels {
		until(t, "a Sentinel that knows all", func() error {
			about := pairs(t, s.do("SENTINEL", "MASTER", "fleet"))
			if about["num-slaves"] != "2" || about["num-other-sentinels"] != "2" || about["flags"] != "master" {
				return fmt.Errorf("it knows %s replicas and %s others; the primary is %s", about["num-slaves"], about["num-other-sentinels"], about["flags"])
			}
			for _, one := range s.do("SENTINEL", "REPLICAS", "fleet").([]any) {
				if replica := pairs(t, one); replica["flags"] != "slave" || replica["master-link-status"] != "ok" {
					return fmt.Errorf("replica %s: %s, link %s", replica["name"], replica["flags"], replica["master-link-status"])
				}
			}
			return nil
		})
	}
	return g
}

// url is where the trio is reported to.
func (g *trio) url() string {
	var hosts []string
	for _, s := range g.sentinels {
		hosts = append(hosts, s.address)
	}
	scheme := "redis+sentinel://"
	if g.servers[0].options.secure != nil {
		scheme = "rediss+sentinel://"
	}
	return scheme + strings.Join(hosts, ",") + "/fleet"
}

// six is a Cluster of three primaries with a replica each.
type six struct{ nodes []*server }

// startSix starts one; the lines are for all nodes.
func startSix(t testing.TB, lines ...string) *six {
	t.Helper()
	g := &six{}
	var addresses []string
	for range 6 {
		address := someAddress()
		host, port, _ := strings.Cut(address, ":")
		g.nodes = append(g.nodes, start(t, options{address: address, config: append([]string{
			"cluster-enabled yes", "cluster-node-timeout 2000", "cluster-announce-ip " + host, "cluster-announce-port " + port,
			"cluster-replica-validity-factor 0", "bind-source-addr " + host,
		}, lines...)}))
		addresses = append(addresses, address)
	}
	args := append([]string{"--cluster", "create"}, addresses...)
	args = append(args, "--cluster-replicas", "1", "--cluster-yes")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "redis-cli", args...).CombinedOutput(); err != nil {
		t.Fatalf("cannot make a Cluster: %v\n%s", err, out)
	}
	for _, s := range g.nodes {
		until(t, "a Cluster in which each knows all", func() error {
			if state := s.info("cluster", "cluster_enabled"); state != "1" {
				return fmt.Errorf("cluster_enabled:%s", state)
			}
			about := fmt.Sprint(s.do("CLUSTER", "INFO"))
			if !strings.Contains(about, "cluster_state:ok") || !strings.Contains(about, "cluster_known_nodes:6") {
				return errors.New(about)
			}
			if nodes := fmt.Sprint(s.do("CLUSTER", "NODES")); strings.Count(nodes, " slave ")+strings.Count(nodes, ",slave ") != 3 {
				return errors.New(nodes)
			}
			if s.info("replication", "role") == "slave" && s.info("replication", "master_link_status") != "up" {
				return errors.New("a replica without its primary")
			}
			return nil
		})
	}
	return g
}

func (g *six) url() string {
	var hosts []string
	for _, s := range g.nodes[:3] { // some of them: it finds the others
		hosts = append(hosts, s.address)
	}
	return "redis+cluster://" + strings.Join(hosts, ",")
}

// holder returns the live primary that has a key, nil while there is none.
func (g *six) holder(key string) *server {
	for _, s := range g.nodes {
		if s.guard == nil || s.paused {
			continue
		}
		if _, err := s.try("TYPE", key); err == nil && s.info("replication", "role") == "master" {
			return s
		}
	}
	return nil
}
