package main

import (
	"context"
	"encoding/json"
	"log"
	"sync"
	"time"

	"github.com/gobwas/ws"
	"github.com/redis/go-redis/v9"

	"github.com/forkd/forkd/examples/websocket/chat"
)

// hub is the rooms of this worker's clients. It subscribes to the channels of these
// rooms and of no others. What Redis publishes may get lost, so the hub looks at each
// ID, and reads what is missing from the room's stream.
type hub struct {
	plane *plane
	wake  chan struct{} // subscriptions are to be changed

	mu      sync.Mutex
	rooms   map[string]*room
	changed map[string]bool // names of rooms that have come or gone
}

type room struct {
	name    string
	holders int // members, and those who are about to be
	members map[*client]bool
	live    chan struct{} // closed when it is subscribed, and last is known
	last    chat.ID       // the newest message that members were sent
}

func newHub(p *plane) *hub {
	return &hub{plane: p, wake: make(chan struct{}, 1), rooms: map[string]*room{}, changed: map[string]bool{}}
}

// run receives for all rooms until ctx ends.
func (h *hub) run(ctx context.Context) {
	sub := h.plane.client.Subscribe(ctx)
	defer sub.Close()
	go h.subscribe(ctx, sub)
	in := sub.ChannelWithSubscriptions(redis.WithChannelSize(1000))
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-in:
			switch m := m.(type) {
			case *redis.Subscription:
				if m.Kind == "subscribe" {
					h.subscribed(ctx, roomOf(m.Channel))
				}
			case *redis.Message:
				if e, err := published(m); err == nil {
					h.receive(ctx, e)
				}
			}
		}
	}
}

// subscribe follows the rooms that come and go. When Redis is away, go-redis subscribes
// again later, and run hears of it.
func (h *hub) subscribe(ctx context.Context, sub *redis.PubSub) {
	have := map[string]bool{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.wake:
		}
		var more, fewer []string
		h.mu.Lock()
		for name := range h.changed {
			switch wanted := h.rooms[name] != nil; {
			case wanted && !have[name]:
				more, have[name] = append(more, roomKey(name)), true
			case wanted: // it went and came back: it is to be confirmed again
				more = append(more, roomKey(name))
			case have[name]:
				fewer = append(fewer, roomKey(name))
				delete(have, name)
			}
		}
		clear(h.changed)
		h.mu.Unlock()
		if len(more) > 0 {
			_ = sub.Subscribe(ctx, more...)
		}
		if len(fewer) > 0 {
			_ = sub.Unsubscribe(ctx, fewer...)
		}
	}
}

func (h *hub) change(name string) {
	h.changed[name] = true
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// hold returns a room, which stays until release.
func (h *hub) hold(name string) *room {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.rooms[name]
	if r == nil {
		r = &room{name: name, members: map[*client]bool{}, live: make(chan struct{})}
		h.rooms[name] = r
		h.change(name)
	}
	r.holders++
	return r
}

func (h *hub) release(r *room, c *client) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(r.members, c)
	if r.holders--; r.holders == 0 {
		delete(h.rooms, r.name)
		h.change(r.name)
	}
}

func (h *hub) find(name string) *room {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.rooms[name]
}

// subscribed follows the confirmation of a subscription: the first one, or one after
// Redis was away. Only run's goroutine changes last.
func (h *hub) subscribed(ctx context.Context, name string) {
	r := h.find(name)
	if r == nil {
		return
	}
	select {
	case <-r.live:
		h.catchUp(ctx, r)
		return
	default:
	}
	id, err := h.plane.newest(ctx, name)
	if err != nil { // those who join give up
		log.Printf("cannot read room %s: %v", name, err)
		return
	}
	h.mu.Lock()
	r.last = id
	h.mu.Unlock()
	close(r.live)
}

func (h *hub) receive(ctx context.Context, e chat.Event) {
	r := h.find(e.Room)
	if r == nil {
		return
	}
	select {
	case <-r.live:
	default:
		return // last is not known yet, so nobody is a member
	}
	if r.last.Before(*e.ID) && r.last.Next() != *e.ID && h.catchUp(ctx, r) {
		return
	}
	h.send(r, e)
}

// catchUp sends what is missing, and reports whether it could.
func (h *hub) catchUp(ctx context.Context, r *room) bool {
	missing, err := h.plane.since(ctx, r.name, r.last)
	for _, e := range missing {
		h.send(r, e)
	}
	return err == nil
}

// send sends a message to the members who do not have it.
func (h *hub) send(r *room, e chat.Event) {
	frame := encode(e)
	h.mu.Lock()
	defer h.mu.Unlock()
	if !r.last.Before(*e.ID) {
		return
	}
	r.last = *e.ID
	for c := range r.members {
		if c.Seen.Before(*e.ID) {
			c.Seen = *e.ID
			c.send(frame)
		}
	}
}

const (
	joinTimeout   = 5 * time.Second
	rejoinTimeout = 30 * time.Second // of a client that another worker had: it is there, and can wait
)

// join makes a client a member of a room, and sends it the messages after last that are
// kept; nil: none. Messages come in order and once, whatever comes in meanwhile. An error means
// that the client is in no room.
func (h *hub) join(ctx context.Context, c *client, name string, last *chat.ID) error {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	if err := h.enter(ctx, c, name, func(r *room) error { return h.welcome(ctx, c, r, last) }); err != nil {
		return err
	}
	c.Room = name
	return h.plane.enter(ctx, c.Session, name)
}

// rejoin makes a client that another worker had a member of its room. It is sent the
// messages that it has not seen.
func (h *hub) rejoin(ctx context.Context, c *client) error {
	ctx, cancel := context.WithTimeout(ctx, rejoinTimeout)
	defer cancel()
	return h.enter(ctx, c, c.Room, func(r *room) error { return h.follow(ctx, c, r, c.Seen) })
}

// enter waits for a room, in which the client is if admit returns no error.
func (h *hub) enter(ctx context.Context, c *client, name string, admit func(*room) error) error {
	r := h.hold(name)
	var err error
	select {
	case <-r.live:
		err = admit(r)
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		h.release(r, c)
		return err
	}
	c.room = r
	return nil
}

func (h *hub) welcome(ctx context.Context, c *client, r *room, last *chat.ID) error {
	if last == nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		c.send(encode(chat.Event{Type: chat.Joined, Room: r.name, ID: &r.last}))
		h.admit(c, r, r.last)
		return nil
	}
	// The client may be ahead of this worker, but not of Redis.
	seen, err := h.plane.newest(ctx, r.name)
	if err != nil {
		return err
	}
	if last.Before(seen) {
		seen = *last
	}
	c.send(encode(chat.Event{Type: chat.Joined, Room: r.name, ID: &seen}))
	return h.follow(ctx, c, r, seen)
}

// follow sends a client what it has not seen, until it has all that the members have.
func (h *hub) follow(ctx context.Context, c *client, r *room, seen chat.ID) error {
	for looked := (chat.ID{}); ; {
		// What members were sent was there to be read, or Redis has forgotten the room.
		h.mu.Lock()
		last := r.last
		if !seen.Before(last) || last == looked {
			h.admit(c, r, seen)
			h.mu.Unlock()
			return nil
		}
		h.mu.Unlock()
		looked = last
		missing, err := h.plane.since(ctx, r.name, seen)
		if err != nil {
			return err
		}
		for _, e := range missing {
			seen = *e.ID
			c.send(encode(e))
		}
	}
}

// admit makes a client a member that has seen the messages up to one. The caller holds
// the lock.
func (h *hub) admit(c *client, r *room, seen chat.ID) {
	c.Seen = seen
	r.members[c] = true
}

// encode makes a text frame.
func encode(e chat.Event) []byte {
	text, err := json.Marshal(e)
	if err != nil {
		panic(err) // strings and numbers only
	}
	return ws.MustCompileFrame(ws.NewTextFrame(text))
}
