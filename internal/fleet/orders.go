package fleet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"time"

	"github.com/forkd/forkd/internal/control"
)

const (
	maxOrder      = 4 << 10 // bytes
	ordersKept    = 1024    // whose ids are remembered, not to obey twice
	shedSeconds   = 10
	mostShed      = 1 << 30
	mostShedTime  = 24 * 60 * 60 // seconds
	shownOfOrders = 200          // bytes, in the log
)

// parseOrder reads an order as it stands in the list. Whatever is not known is an
// error: an order is carried out as it was meant or not at all. With an error, the
// id is there where it is one, for an answer.
func parseOrder(text string) (Command, error) {
	var order struct {
		ID        string          `json:"id"`
		Op        string          `json:"op"`
		Args      Args            `json:"args"`
		ExpiresAt json.RawMessage `json:"expires_at"`
	}
	if len(text) > maxOrder {
		return Command{}, fmt.Errorf("is %d bytes: at most %d", len(text), maxOrder)
	}
	decoder := json.NewDecoder(bytes.NewReader([]byte(text)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&order); err != nil {
		return Command{}, fmt.Errorf("is no JSON of an order: %v", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return Command{}, errors.New("goes on after its end")
	}
	if !regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`).MatchString(order.ID) {
		return Command{}, errors.New("has no id of 1 to 64 of A-Z a-z 0-9 . _ -")
	}
	c := Command{ID: order.ID, Op: cut(order.Op, 40), Args: order.Args}
	expires, err := parseTime(order.ExpiresAt)
	if err != nil {
		return c, err
	}
	c.ExpiresAt = expires
	return c, c.complete()
}

// complete checks the args and fills in what was left out.
func (c *Command) complete() error {
	none := c.Args
	switch c.Op {
	case OpScale:
		if _, err := control.ParseScale(c.Args.Workers); err != nil {
			return err
		}
		none.Workers = ""
	case OpShed:
		if c.Args.Seconds == 0 {
			c.Args.Seconds = shedSeconds
		}
		if c.Args.Count < 1 || c.Args.Count > mostShed {
			return fmt.Errorf("sheds %d connections: 1 to %d", c.Args.Count, mostShed)
		}
		if c.Args.Seconds < 1 || c.Args.Seconds > mostShedTime {
			return fmt.Errorf("sheds over %d seconds: 1 to %d", c.Args.Seconds, mostShedTime)
		}
		none.Count, none.Seconds = 0, 0
	case OpRoll, OpDrain, OpResume:
	default:
		return fmt.Errorf("has the op %q: only scale, roll, drain, resume and shed are known", cut(c.Op, 40))
	}
	if none != (Args{}) {
		return fmt.Errorf("has args that %s does not take", c.Op)
	}
	return nil
}

// parseTime reads RFC 3339 or ms since the epoch.
func parseTime(raw json.RawMessage) (time.Time, error) {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		if t, err := time.Parse(time.RFC3339, text); err == nil {
			return t, nil
		}
	} else if n, err := strconv.ParseInt(string(raw), 10, 64); err == nil && n > 0 {
		return time.UnixMilli(n), nil
	}
	return time.Time{}, errors.New("has no expires_at in RFC 3339 or ms since the epoch")
}

// idSet remembers the last ids that it was given.
type idSet struct {
	ids  map[string]struct{}
	ring []string // the oldest at next, once it is full
	next int
}

// add reports whether id is new.
func (s *idSet) add(id string) bool {
	if _, ok := s.ids[id]; ok {
		return false
	}
	if s.ids == nil {
		s.ids = map[string]struct{}{}
	}
	s.ids[id] = struct{}{}
	if len(s.ring) < ordersKept {
		s.ring = append(s.ring, id)
		return true
	}
	delete(s.ids, s.ring[s.next])
	s.ring[s.next] = id
	s.next = (s.next + 1) % ordersKept
	return true
}
