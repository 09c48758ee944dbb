// Command consumers is a worker without sockets: it takes jobs from a Redis stream, does
// them and writes down the results. forkd keeps as many as are wanted, rolls them to new
// code and scales them, on one host or many; all are one consumer group.
//
//	go build -o examples/consumers/consumers ./examples/consumers
//	JOBS_REDIS_URL=redis://127.0.0.1 forkd run -c examples/consumers/forkd.toml
//	redis-cli XADD '{jobs}' '*' text hello
//	redis-cli GET '{jobs}:done'
//
// Keys, with -stream jobs:
//
//	{jobs}          stream: jobs to do, and those in work. A job that is done is removed
//	{jobs}:done     number of jobs done
//	{jobs}:results  stream, the newest 100,000: job, result, by (host:slot)
//	{jobs}:failed   stream: jobs that have not been done in -attempts, with their fields
//
// # What is promised
//
// Every job is done, and its result counts once, as long as Redis keeps its data:
//
//   - A worker has one job at a time. It is pending in Redis until its result is there.
//   - The acknowledgement, the removal, the result and the count are one script, which does
//     all or nothing, and nothing if the job was acknowledged before. A transaction (MULTI)
//     could not make the result depend on the acknowledgement.
//   - A worker that is asked to end (a roll, a scale, a stop) takes no new job, finishes the one that it has, and
//     ends. So a roll begins no job twice, if drain.timeout is longer than a job takes.
//   - A worker that is killed, or whose host loses power, leaves its job pending. Another
//     one takes it over after -idle. That job is begun twice, and its result counts once.
//     The same goes for a job that takes longer than -idle: choose it longer than any does.
//   - While Redis does not answer a worker asks it again, with backoff, and goes on with the
//     same result.
//
// What a job does outside of Redis can happen twice if a worker is killed in the middle: make
// it depend on the job's ID, as payment services have it with an idempotency key. If Redis
// loses writes (a failover), it loses a result together with its acknowledgement: the job is
// done again.
//
// A consumer's name is HOST:SLOT, so that a roll leaves no names behind. A new worker does not look at what
// is pending under its own name: its predecessor may be at work on it.
package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"log"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/forkd/forkd/worker"
)

func main() {
	log.SetFlags(0)
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "consumers:", err)
		os.Exit(1)
	}
}

func run() error {
	hostname, _ := os.Hostname()
	url := cmp.Or(os.Getenv("JOBS_REDIS_URL"), "redis://127.0.0.1")
	stream := flag.String("stream", "jobs", "`name` of the stream")
	group := flag.String("group", "workers", "`name` of the consumer group")
	host := flag.String("host", hostname, "`name` of this host")
	idle := flag.Duration("idle", time.Minute, "take a job over when nothing was heard of it for so long")
	attempts := flag.Int64("attempts", 5, "give a job up after so many")
	work := flag.Duration("work", 20*time.Millisecond, "time that a job takes")
	flag.Parse()

	w := worker.New()
	redis.SetLogger(silent{})
	client, err := connect(url)
	if err != nil {
		return err
	}
	defer client.Close()
	c := &consumer{
		client: client, worker: w, jobs: "{" + *stream + "}", group: *group,
		name: *host + ":" + cmp.Or(os.Getenv("FORKD_SLOT"), "0"), idle: *idle, attempts: *attempts,
		do: func(job redis.XMessage) string {
			time.Sleep(*work) // the work
			return digest(job)
		},
	}
	c.consume(context.Background())
	return nil
}

func connect(url string) (*redis.Client, error) {
	o, err := redis.ParseURL(url)
	if err != nil {
		return nil, errors.New("cannot read the URL of Redis") // err has it, with its password
	}
	o.Protocol = 2
	o.MaxRetries = -1 // persist does it
	o.DialTimeout, o.ReadTimeout, o.WriteTimeout = 2*time.Second, 2*time.Second, 2*time.Second
	o.DialerRetries = 1
	return redis.NewClient(o), nil
}

// digest is the result of a job: a hash of its fields.
func digest(job redis.XMessage) string {
	h := sha256.New()
	for _, key := range slices.Sorted(maps.Keys(job.Values)) {
		fmt.Fprintf(h, "%q=%q\n", key, job.Values[key])
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// silent is the log of go-redis: what it says comes with each error.
type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

// backoff is how long to wait after so many failures in a row: with full jitter, 5 s at most.
func backoff(failures int) time.Duration {
	return rand.N(min(5*time.Second, 50*time.Millisecond<<min(failures, 10)))
}
