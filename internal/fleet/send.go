package fleet

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/redisconfig"
)

const (
	maxWaiting  = 64               // commands of a host
	commandKept = 10 * time.Minute // after its expiry: the sender can see that it was not taken
)

// Send appends a command to the list of a host, where the host's next heartbeat finds it; the
// results are events with its id. An error says that a host would refuse it, that it
// has expired by Redis's clock, or that 64 are waiting. Only a host with
// redis.control executes commands. The Reader must not read from replicas.
func (r *Reader) Send(ctx context.Context, app, host string, c Command) error {
	if err := cmp.Or(CheckApp(app), redisconfig.CheckHost(host)); err != nil {
		return err
	}
	text, err := c.text()
	if err != nil {
		return err
	}
	key := keys{app}.commands(host)
	waiting, err := r.client.LLen(ctx, key).Result()
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", key, err)
	}
	if waiting >= maxWaiting {
		return tooMany(host, waiting)
	}
	now, err := r.clock(ctx, key)
	if err != nil {
		return err
	}
	if !c.ExpiresAt.After(now) {
		return fmt.Errorf("the command has expired already, by Redis's clock: %s ago", now.Sub(c.ExpiresAt).Round(time.Millisecond))
	}
	left, err := r.client.PTTL(ctx, key).Result()
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", key, err)
	}
	expires := c.ExpiresAt.Add(commandKept)
	if earlier := now.Add(left); left > 0 && earlier.After(expires) {
		expires = earlier // of a command that expires later than this one
	}
	_, err = r.client.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.RPush(ctx, key, text)
		p.PExpireAt(ctx, key, expires)
		return nil
	})
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", key, err)
	}
	return nil
}

// text is the command as it stands in the list.
func (c Command) text() (string, error) {
	text, err := json.Marshal(struct {
		control.Command

		ExpiresAt int64 `json:"expires_at"` // ms since the epoch
	}{c.Command, c.ExpiresAt.UnixMilli()})
	if err == nil {
		_, err = parseCommand(string(text)) // as the host will
	}
	if err != nil {
		return "", fmt.Errorf("the command %w", err)
	}
	return string(text), nil
}

func tooMany(host string, waiting int64) error {
	return fmt.Errorf("%s has %d commands waiting, and takes none: is redis.control = true there?", host, waiting)
}
