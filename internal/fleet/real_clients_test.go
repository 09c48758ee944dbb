package fleet_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/forkd/forkd/internal/fleet"
)

// pythonReader and nodeReader read what docs/fleet.md describes, as its users would: by
// their client's own methods, with a name, a health check and a subscription.
const pythonReader = `
import os, redis
r = redis.Redis(host=os.environ["HOST"], port=int(os.environ["PORT"]), username=os.environ["NAME"], password=os.environ["PASSWORD"],
                client_name="reader", health_check_interval=1, decode_responses=True)
now = r.time()[0] * 1000
for host in r.zrange("forkd:{shop}:hosts", now, "+inf", byscore=True):
    report = r.hgetall("forkd:{shop}:host:" + host)
    print(host, report["schema"], report["state"], report["connections"], *r.hmget("forkd:{shop}:host:" + host, "capacity"))
print(len(r.zrangebyscore("forkd:{shop}:hosts", now, "+inf")), r.zcard("forkd:{shop}:load"), r.zrange("forkd:{shop}:load", 0, -1, withscores=True))
print([fields["type"] for id, fields in r.xread({"forkd:{shop}:events": "0"}, count=10)[0][1]])
print("server" if "redis_version" in r.info("server") else "none")
p = r.pubsub()
for on, off, what in (p.subscribe, p.unsubscribe, "forkd:{shop}:changed"), (p.psubscribe, p.punsubscribe, "forkd:*"):
    on(what)
    print(p.get_message(timeout=60)["type"])
    off(what)
    print(p.get_message(timeout=60)["type"])
try:
    r.hset("forkd:{shop}:host:" + host, "connections", 0)
except redis.exceptions.NoPermissionError:
    print("may not write")
`

const nodeReader = `
const Redis = require(process.env.IOREDIS)
const connect = () => new Redis({
  host: process.env.HOST, port: +process.env.PORT, username: process.env.NAME, password: process.env.PASSWORD,
  connectionName: 'reader', maxRetriesPerRequest: 1, retryStrategy: null,
})
;(async () => {
  const r = connect()
  const now = (await r.time())[0] * 1000
  let host
  for (host of await r.zrange('forkd:{shop}:hosts', now, '+inf', 'BYSCORE')) {
    const report = await r.hgetall('forkd:{shop}:host:' + host)
    console.log(host, report.schema, report.state, report.connections, (await r.hmget('forkd:{shop}:host:' + host, 'capacity'))[0])
  }
  console.log((await r.zrangebyscore('forkd:{shop}:hosts', now, '+inf')).length, await r.zcard('forkd:{shop}:load'), await r.zscore('forkd:{shop}:load', host))
  const [[, entries]] = await r.xread('COUNT', 10, 'STREAMS', 'forkd:{shop}:events', '0')
  console.log(entries.map(([, fields]) => fields[fields.indexOf('type') + 1]).join())
  const p = connect()
  console.log(await p.subscribe('forkd:{shop}:changed'), await p.unsubscribe('forkd:{shop}:changed'))
  console.log(await p.psubscribe('forkd:*'), await p.punsubscribe('forkd:*'))
  await p.quit()
  await r.hset('forkd:{shop}:host:' + host, 'connections', 0).catch(e => console.log(e.message.split(' ')[0]))
  await r.quit()
})()
`

// The reader's rights of docs/fleet.md are enough for what it asks people to do, whatever
// client they take.
func TestRealClients(t *testing.T) {
	t.Parallel()
	reporter, reader := leastPrivilege(t)
	s := start(t, options{
		user: "root", password: "all",
		config: []string{"user default off", "user root on >all ~* &* +@all", allowed(reporter, ""), allowed(reader, "")},
	})
	a := newApp("b1", 2)
	a.happen("up", "")
	r := startReport(t, a, fleet.Settings{URL: "redis://" + s.address, Username: "forkd", PasswordFile: secret(t), HostID: "web-1", ConnectionLimit: 40})
	r.seen(t, s)
	until(t, "the event", func() error {
		if len(appended(t, s)) == 0 {
			return fmt.Errorf("there is none")
		}
		return nil
	})
	ioredis, err := filepath.Abs("../../bin/.npm-test/node_modules/ioredis")
	if err == nil {
		_, err = os.Stat(ioredis)
	}
	if err != nil {
		t.Fatalf("%v: test/install installs it", err)
	}
	host, port, _ := strings.Cut(s.address, ":")
	const password = "pass/word#1:@"
	dir := t.TempDir()
	write(t, filepath.Join(dir, "reader.py"), pythonReader)
	write(t, filepath.Join(dir, "reader.js"), nodeReader)
	_, script, _ := strings.Cut(fleetDocument(t), "```sh\n")
	script, _, _ = strings.Cut(script, "```\n")
	write(t, filepath.Join(dir, "reader.sh"), script)
	for _, c := range []struct {
		name, command, want string
		refused             int // entries in Redis's log of what is not allowed
	}{
		{"redis-cli", "sh reader.sh shop forkd-reader", "web-1 ready 20 40\n1 hosts 20 connections\n", 0},
		{
			"redis-py", "/usr/bin/python3 reader.py",
			"web-1 1 ready 20 40\n1 1 [('web-1', 5000.0)]\n['up']\nserver\nsubscribe\nunsubscribe\npsubscribe\npunsubscribe\nmay not write\n", 1,
		},
		{"ioredis", "node reader.js", "web-1 1 ready 20 40\n1 1 5000\nup\n1 0\n1 0\nNOPERM\n", 1},
	} {
		s.do("ACL", "LOG", "RESET")
		words := strings.Fields(c.command)
		cmd := exec.CommandContext(t.Context(), words[0], words[1:]...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "HOST="+host, "PORT="+port, "NAME=forkd-reader", "PASSWORD="+password, "IOREDIS="+ioredis,
			"FORKD_REDIS_URL=redis://"+s.address, "REDISCLI_AUTH="+password)
		var problems strings.Builder
		cmd.Stderr = &problems
		out, err := cmd.Output()
		if got := string(out); err != nil || got != c.want || problems.Len() > 0 {
			t.Errorf("%s: %v\n%s%s\nwant\n%s", c.name, err, got, problems.String(), c.want)
		}
		if log := s.do("ACL", "LOG").([]any); len(log) != c.refused {
			t.Errorf("%s: refused: %v", c.name, log)
		}
	}
}
