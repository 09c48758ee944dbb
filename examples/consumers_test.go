package examples_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// install puts an example's forkd.toml beside its program, and returns its path.
func install(t *testing.T, bin, example string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(example, "forkd.toml"))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(bin, example+".toml")
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// Three rolls and a kill under load: each job's result is there once, and a roll leaves
// nothing for others to take over.
func TestConsumers(t *testing.T) {
	t.Setenv("FORKD_RUNTIME_DIR", filepath.Join(t.TempDir(), "run"))
	t.Setenv("FORKD_STATE_DIR", filepath.Join(t.TempDir(), "state"))
	bin := build(t, "../cmd/forkd", "./consumers")
	file := install(t, bin, "consumers")
	r := startRedis(t)
	m := run(t, bin, "consumers", bin, []string{"JOBS_REDIS_URL=" + r.url}, "-c", file, "--workers", "3", "--",
		"./consumers", "-idle", "10s", "-work", "5ms")
	m.ready(t)

	wanted := map[string]bool{}
	add := func(n int) { // at once: one by one they may be done as fast as they come
		t.Helper()
		added, err := r.client.Pipelined(t.Context(), func(p redis.Pipeliner) error {
			for i := range n {
				p.XAdd(t.Context(), &redis.XAddArgs{Stream: "{jobs}", Values: []any{"n", len(wanted) + i}})
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, job := range added {
			wanted[job.(*redis.StringCmd).Val()] = true
		}
	}
	done := func() int {
		n, _ := r.client.Get(t.Context(), "{jobs}:done").Int()
		return n
	}
	for range 3 {
		add(1000)
		from := done()
		m.reload(t)
		if done() == from {
			t.Error("a roll without work")
		}
	}
	waitFor(t, "the end of what the last roll found in work", func() error {
		if pending := pendingJobs(t, r); pending > 3 {
			return fmt.Errorf("%d jobs in work by 3 workers", pending)
		}
		return nil
	})
	add(500)
	// Until one of slot 0 is in work: that one is left by the kill.
	waitFor(t, "a job of slot 0", func() error {
		p, err := r.client.XPending(t.Context(), "{jobs}", "workers").Result()
		if err != nil {
			return err
		}
		for name := range p.Consumers {
			if strings.HasSuffix(name, ":0") {
				return nil
			}
		}
		return fmt.Errorf("it has %v", p.Consumers)
	})
	m.kill(t)
	waitFor(t, "all results", func() error {
		if n := done(); n < len(wanted) {
			return fmt.Errorf("%d of %d", n, len(wanted))
		}
		return nil
	})
	m.stop(t)

	results, err := r.client.XRange(t.Context(), "{jobs}:results", "-", "+").Result()
	if err != nil {
		t.Fatal(err)
	}
	if n := done(); n != len(wanted) || len(results) != n {
		t.Errorf("%d jobs, %d done, %d results", len(wanted), n, len(results))
	}
	for _, result := range results {
		if id := result.Values["job"].(string); !wanted[id] {
			t.Errorf("a result more for job %s", id)
		} else {
			delete(wanted, id)
		}
	}
	if len(wanted) > 0 {
		t.Errorf("%d jobs without a result", len(wanted))
	}
	left, err := r.client.XLen(t.Context(), "{jobs}").Result()
	if pending := pendingJobs(t, r); pending > 0 || left > 0 || err != nil {
		t.Errorf("%d jobs pending, %d in the stream, %v", pending, left, err)
	}
	// The kill can leave one, no roll any.
	if n := strings.Count(m.said.String(), "taking job"); n > 1 {
		t.Errorf("%d jobs were taken over", n)
	}
}

func pendingJobs(t *testing.T, r *redisServer) int64 {
	t.Helper()
	p, err := r.client.XPending(t.Context(), "{jobs}", "workers").Result()
	if err != nil {
		t.Fatal(err)
	}
	return p.Count
}

// A job that no worker survives is put aside, and Redis that comes back empty gets its
// group again.
func TestConsumersInTrouble(t *testing.T) {
	t.Setenv("FORKD_RUNTIME_DIR", filepath.Join(t.TempDir(), "run"))
	t.Setenv("FORKD_STATE_DIR", filepath.Join(t.TempDir(), "state"))
	bin := build(t, "../cmd/forkd", "./consumers")
	file := install(t, bin, "consumers")
	r := startRedis(t)
	m := run(t, bin, "consumers", bin, []string{"JOBS_REDIS_URL=" + r.url}, "-c", file, "--workers", "1", "--",
		"./consumers", "-idle", "100ms", "-attempts", "2")
	m.ready(t)
	add := func() string {
		t.Helper()
		id, err := r.client.XAdd(t.Context(), &redis.XAddArgs{Stream: "{jobs}", Values: []any{"text", "x"}}).Result()
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	doneOnce := func() error {
		if n, err := r.client.Get(t.Context(), "{jobs}:done").Int(); n != 1 {
			return fmt.Errorf("%d done, %w", n, err)
		}
		return nil
	}
	// Somebody has taken it twice and is no more.
	id := ""
	for id == "" {
		job := add()
		taken, err := r.client.XReadGroup(t.Context(), &redis.XReadGroupArgs{
			Group: "workers", Consumer: "gone", Streams: []string{"{jobs}", ">"}, Count: 1, Block: -1,
		}).Result()
		if err == nil && taken[0].Messages[0].ID == job {
			id = job
		}
	}
	if err := r.client.XClaim(t.Context(), &redis.XClaimArgs{
		Stream: "{jobs}", Group: "workers", Consumer: "gone", MinIdle: 0, Messages: []string{id},
	}).Err(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "a job to be put aside", func() error {
		failed, err := r.client.XRange(t.Context(), "{jobs}:failed", "-", "+").Result()
		if err == nil && (len(failed) != 1 || failed[0].Values["job"] != id || failed[0].Values["text"] != "x") {
			err = fmt.Errorf("%v", failed)
		}
		return err
	})

	r.stop()
	r.start(t)
	add()
	waitFor(t, "work for a Redis that has lost all", doneOnce)
	m.stop(t)
}

// Jobs that take longer than -idle are begun twice, by another worker, and count once.
func TestConsumersTooSlow(t *testing.T) {
	t.Setenv("FORKD_RUNTIME_DIR", filepath.Join(t.TempDir(), "run"))
	t.Setenv("FORKD_STATE_DIR", filepath.Join(t.TempDir(), "state"))
	bin := build(t, "../cmd/forkd", "./consumers")
	file := install(t, bin, "consumers")
	r := startRedis(t)
	m := run(t, bin, "consumers", bin, []string{"JOBS_REDIS_URL=" + r.url}, "-c", file, "--workers", "2", "--",
		"./consumers", "-idle", "200ms", "-work", "500ms", "-attempts", "1000")
	m.ready(t)
	jobs := 0
	waitFor(t, "a job that is begun twice", func() error {
		if strings.Contains(m.said.String(), "taking job") {
			return nil
		}
		n, err := r.client.XLen(t.Context(), "{jobs}").Result()
		for i := 0; i < 5 && err == nil && n == 0; i++ { // an odd number: one worker has nothing to do in the end
			jobs++
			err = r.client.XAdd(t.Context(), &redis.XAddArgs{Stream: "{jobs}", Values: []any{"text", "x"}}).Err()
		}
		return errors.Join(err, fmt.Errorf("%d jobs", jobs))
	})
	waitFor(t, "all jobs", func() error {
		n, err := r.client.XLen(t.Context(), "{jobs}").Result()
		if err == nil && n > 0 {
			err = fmt.Errorf("%d are left", n)
		}
		return err
	})
	m.stop(t) // when the workers have ended what they had
	n, err := r.client.Get(t.Context(), "{jobs}:done").Int()
	results, _ := r.client.XLen(t.Context(), "{jobs}:results").Result()
	if n != jobs || results != int64(jobs) || err != nil {
		t.Errorf("%d done, %d results of %d jobs, %v", n, results, jobs, err)
	}
}
