package fleet

import (
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
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
	return r.order(ctx, app, host, "", c)
}

//go:embed order.lua
var orderSource string

// order is Send, with a value that the leader's key must have; "": whatever it has.
func (r *Reader) order(ctx context.Context, app, host, leader string, c Command) error {
	if err := cmp.Or(CheckApp(app), redisconfig.CheckHost(host)); err != nil {
		return err
	}
	text, err := c.text()
	if err != nil {
		return err
	}
	k := keys{app}
	answer, err := redis.NewScript(orderSource).Run(ctx, r.client, []string{k.leader(), k.commands(host)},
		leader, text, c.ExpiresAt.UnixMilli(), commandKept.Milliseconds(), maxWaiting).Text()
	switch {
	case err != nil:
		return fmt.Errorf("cannot write %s: %w", k.commands(host), err)
	case answer == "leader":
		return ErrNotLeader
	case answer == "late":
		return errors.New("the command has expired already, by Redis's clock")
	case answer != "":
		return fmt.Errorf("%s has %d commands waiting, and takes none: is redis.control = true there?", host, maxWaiting)
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
