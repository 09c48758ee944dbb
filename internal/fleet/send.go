package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/redisconfig"
)

const (
	mostWaiting = 64               // orders of a host
	orderKept   = 10 * time.Minute // after it has expired: who has sent it sees what became of it
)

// Send puts an order for a host into its list, where the host's next beat finds
// it; the answers are events with its id. It fails when the
// order makes no sense or has expired by Redis's clock, or 64 wait already. Only a
// host with redis.control obeys.
func (r *Reader) Send(ctx context.Context, app, host string, c Command) error {
	if err := redisconfig.CheckApp(app); err != nil {
		return err
	}
	if err := redisconfig.CheckHost(host); err != nil {
		return err
	}
	text, err := c.text()
	if err != nil {
		return err
	}
	key := keys{app}.orders(host)
	waiting, err := r.to.LLen(ctx, key).Result()
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", key, err)
	}
	if waiting >= mostWaiting {
		return fmt.Errorf("%s has %d orders waiting, and obeys none: is redis.control = true there?", host, waiting)
	}
	now, err := r.clock(ctx, key)
	if err != nil {
		return err
	}
	if !c.ExpiresAt.After(now) {
		return fmt.Errorf("the order has expired already, by Redis's clock: %s ago", now.Sub(c.ExpiresAt).Round(time.Millisecond))
	}
	expires := c.ExpiresAt.Add(orderKept)
	if left, err := r.to.PTTL(ctx, key).Result(); err != nil {
		return fmt.Errorf("cannot read %s: %w", key, err)
	} else if longer := now.Add(left); left > 0 && longer.After(expires) {
		expires = longer // an earlier order is good for longer than this one
	}
	_, err = r.to.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.RPush(ctx, key, text)
		p.PExpireAt(ctx, key, expires)
		return nil
	})
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", key, err)
	}
	return nil
}

// text is the order as it stands in the list. What a host would not take is an error.
func (c Command) text() (string, error) {
	b, err := json.Marshal(struct {
		ID        string       `json:"id"`
		Op        string       `json:"op"`
		Args      control.Args `json:"args"`
		ExpiresAt int64        `json:"expires_at"` // ms since the epoch
	}{c.ID, c.Op, c.Args, c.ExpiresAt.UnixMilli()})
	if err != nil {
		return "", fmt.Errorf("cannot write the order: %v", err)
	}
	if _, err := parseOrder(string(b)); err != nil {
		return "", fmt.Errorf("the order %s", err)
	}
	return string(b), nil
}
