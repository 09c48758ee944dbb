package main

import (
	"context"
	"errors"
	"log"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/forkd/forkd/worker"
)

// block is how long to wait for a job, and so how long a drain of a worker without one
// may take. A wait that is cut short might be given a job that nobody hears of.
const block = time.Second

// consumer is one member of the group.
type consumer struct {
	client   *redis.Client
	worker   *worker.Worker
	jobs     string // the stream
	group    string
	name     string
	idle     time.Duration
	attempts int64
	do       func(job redis.XMessage) (result string)

	cursor string    // of the search for jobs to take over
	search time.Time // when to search next
}

// consume does jobs until the worker drains.
func (c *consumer) consume(ctx context.Context) {
	if !c.persist(func() error { return c.join(ctx) }, true) {
		return
	}
	c.worker.Ready()
	c.searchLater()
	for !c.draining() {
		var job *redis.XMessage
		c.persist(func() (err error) {
			if job, err = c.take(ctx); err != nil && strings.HasPrefix(err.Error(), "NOGROUP") {
				err = c.join(ctx) // Redis has lost it
			}
			return err
		}, true)
		if job == nil {
			continue
		}
		c.worker.Request()
		result := c.do(*job)
		c.persist(func() error { return c.finish(ctx, job.ID, result) }, false)
	}
}

// join makes the group if there is none.
func (c *consumer) join(ctx context.Context) error {
	err := c.client.XGroupCreateMkStream(ctx, c.jobs, c.group, "0").Err()
	if err != nil && strings.HasPrefix(err.Error(), "BUSYGROUP") {
		return nil
	}
	return err
}

func (c *consumer) draining() bool {
	select {
	case <-c.worker.Draining():
		return true
	default:
		return false
	}
}

// persist asks Redis until it answers, or, if that is no use any more, the worker drains;
// then it reports false.
func (c *consumer) persist(ask func() error, untilDrain bool) bool {
	for failures := 0; ; failures++ {
		err := ask()
		if err == nil {
			return true
		}
		if failures == 0 {
			log.Printf("cannot ask Redis, trying again: %v", err)
		}
		stop := c.worker.Draining()
		if !untilDrain {
			stop = nil
		}
		select {
		case <-stop:
			return false
		case <-time.After(backoff(failures)):
		}
	}
}

// take returns a job, nil if there is none for now.
func (c *consumer) take(ctx context.Context) (*redis.XMessage, error) {
	if !time.Now().Before(c.search) {
		if job, err := c.takeOver(ctx); job != nil || err != nil {
			return job, err
		}
	}
	streams, err := c.client.XReadGroup(ctx, &redis.XReadGroupArgs{
		Group: c.group, Consumer: c.name, Streams: []string{c.jobs, ">"}, Count: 1, Block: block,
	}).Result()
	switch {
	case errors.Is(err, redis.Nil):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return &streams[0].Messages[0], nil
}

// takeOver returns a job that nothing was heard of for c.idle.
func (c *consumer) takeOver(ctx context.Context) (*redis.XMessage, error) {
	jobs, cursor, err := c.client.XAutoClaim(ctx, &redis.XAutoClaimArgs{
		Stream: c.jobs, Group: c.group, Consumer: c.name, MinIdle: c.idle, Start: c.cursor, Count: 1,
	}).Result()
	if err != nil {
		return nil, err
	}
	c.cursor = cursor
	if len(jobs) == 0 {
		if cursor == "0-0" {
			c.searchLater()
		}
		return nil, nil
	}
	job := &jobs[0]
	pending, err := c.client.XPendingExt(ctx, &redis.XPendingExtArgs{Stream: c.jobs, Group: c.group, Start: job.ID, End: job.ID, Count: 1}).Result()
	if err != nil || len(pending) == 0 {
		return nil, err // it was done meanwhile
	}
	if attempts := pending[0].RetryCount - 1; attempts >= c.attempts {
		log.Printf("job %s was not done in %d attempts: it is in %s:failed", job.ID, attempts, c.jobs)
		return nil, c.giveUp(ctx, *job)
	}
	log.Printf("taking job %s over", job.ID)
	return job, nil
}

// searchLater has all members of the group search at other times.
func (c *consumer) searchLater() {
	c.cursor = "0-0"
	c.search = time.Now().Add(c.idle/4 + rand.N(c.idle/2+1))
}

// finish writes a result down, if the job was not done before, by another worker or by
// this one with an answer that got lost.
func (c *consumer) finish(ctx context.Context, job, result string) error {
	return c.client.Eval(ctx, `
		if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
		redis.call('XDEL', KEYS[1], ARGV[2])
		redis.call('XADD', KEYS[2], 'MAXLEN', '~', 100000, '*', 'job', ARGV[2], 'result', ARGV[3], 'by', ARGV[4])
		redis.call('INCR', KEYS[3])
		return 1`,
		[]string{c.jobs, c.jobs + ":results", c.jobs + ":done"}, c.group, job, result, c.name).Err()
}

// giveUp puts a job aside.
func (c *consumer) giveUp(ctx context.Context, job redis.XMessage) error {
	args := []any{c.group, job.ID}
	for key, value := range job.Values {
		args = append(args, key, value)
	}
	return c.client.Eval(ctx, `
		if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
		redis.call('XDEL', KEYS[1], ARGV[2])
		redis.call('XADD', KEYS[2], 'MAXLEN', '~', 100000, '*', 'job', ARGV[2], unpack(ARGV, 3))
		return 1`,
		[]string{c.jobs, c.jobs + ":failed"}, args...).Err()
}
