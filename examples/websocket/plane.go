package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/forkd/forkd/examples/websocket/chat"
)

const (
	keptMessages = 128            // of each room, for clients that come back
	keptFor      = 24 * time.Hour // rooms and sessions, from the last use
	redisTimeout = 2 * time.Second
)

// plane is Redis: it numbers and keeps the messages of rooms, carries them to all
// workers, and holds the sessions.
//
//	chat:{ROOM}       stream: the newest messages of a room; and the channel on which each is published
//	chat:session:ID   hash: room, visits, said
type plane struct {
	client    *redis.Client
	sayScript *redis.Script
	close     func()
}

// openPlane connects when it is first used. Without a URL the plane is a small Redis
// of this process's own, with a password that nobody else knows.
func openPlane(url string) (*plane, error) {
	end := func() {}
	if url == "" {
		own := miniredis.NewMiniRedis()
		own.ClockTTL(true)
		password := rand.Text()
		own.RequireAuth(password)
		if err := own.Start(); err != nil {
			return nil, fmt.Errorf("cannot start a Redis of its own: %w", err)
		}
		url = "redis://:" + password + "@" + own.Addr()
		end = own.Close
	}
	o, err := redis.ParseURL(url)
	if err != nil {
		return nil, errors.New("cannot read the URL of Redis") // err has it, with its password
	}
	o.Protocol = 2
	o.MaxRetries = -1 // say is not to be done twice
	o.DialTimeout, o.ReadTimeout, o.WriteTimeout, o.PoolTimeout = redisTimeout, redisTimeout, redisTimeout, redisTimeout
	o.DialerRetries = 1
	o.ContextTimeoutEnabled = true
	client := redis.NewClient(o)
	return &plane{client: client, sayScript: redis.NewScript(sayLua), close: func() { client.Close(); end() }}, nil
}

// sayLua: KEYS the room and the session, ARGV the message, how many to keep, seconds.
const sayLua = `
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local epoch, seq
if last then
	epoch, seq = string.match(last[1], '^(%d+)-(%d+)$')
else
	local now = redis.call('TIME')
	epoch, seq = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000)), 0
end
local id = epoch .. '-' .. string.format('%.0f', seq + 1)
redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[2], id, 'm', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('PUBLISH', KEYS[1], id .. ' ' .. ARGV[1])
redis.call('HINCRBY', KEYS[2], 'said', 1)
redis.call('EXPIRE', KEYS[2], ARGV[3])
return id`

func roomKey(room string) string { return "chat:{" + room + "}" }

// roomOf is the room of a channel or key.
func roomOf(key string) string { return strings.TrimSuffix(strings.TrimPrefix(key, "chat:{"), "}") }

func sessionKey(id string) string { return "chat:session:" + id }

// say numbers a message, keeps and publishes it, and counts it for its session, all or
// nothing.
func (p *plane) say(ctx context.Context, session, room, text string) error {
	payload, err := json.Marshal(chat.Event{From: publicName(session), Text: text})
	if err != nil {
		return err
	}
	keys := []string{roomKey(room), sessionKey(session)}
	return p.sayScript.Run(ctx, p.client, keys, payload, keptMessages, int(keptFor.Seconds())).Err()
}

// since returns the messages of a room after one of them that are kept, oldest first.
func (p *plane) since(ctx context.Context, room string, id chat.ID) ([]chat.Event, error) {
	entries, err := p.client.XRange(ctx, roomKey(room), id.Next().String(), "+").Result()
	if err != nil {
		return nil, err
	}
	var messages []chat.Event
	for _, e := range entries {
		payload, _ := e.Values["m"].(string)
		if m, err := message(room, e.ID, payload); err == nil {
			messages = append(messages, m)
		}
	}
	return messages, nil
}

// newest is the ID of a room's newest message, zero if there is none.
func (p *plane) newest(ctx context.Context, room string) (chat.ID, error) {
	entries, err := p.client.XRevRangeN(ctx, roomKey(room), "+", "-", 1).Result()
	if err != nil || len(entries) == 0 {
		return chat.ID{}, err
	}
	return chat.ParseID(entries[0].ID)
}

// published reads what say has published.
func published(m *redis.Message) (chat.Event, error) {
	id, payload, _ := strings.Cut(m.Payload, " ")
	return message(roomOf(m.Channel), id, payload)
}

func message(room, id, payload string) (m chat.Event, err error) {
	if err := json.Unmarshal([]byte(payload), &m); err != nil {
		return m, err
	}
	number, err := chat.ParseID(id)
	m.Type, m.Room, m.ID = chat.Message, room, &number
	return m, err
}

// session is what Redis knows of a client.
type session struct {
	id      string
	resumed bool
	room    string
	visits  int64
	said    int64
}

// open counts a visit of a session. One that Redis does not know is not taken from the
// client: who could choose its own ID could make others use it.
func (p *plane) open(ctx context.Context, id string) (s session, err error) {
	if validSession(id) {
		fields, err := p.client.HGetAll(ctx, sessionKey(id)).Result()
		if err != nil {
			return s, err
		}
		s = session{id: id, resumed: len(fields) > 0, room: fields["room"]}
		s.said, _ = strconv.ParseInt(fields["said"], 10, 64)
	}
	if !s.resumed {
		s = session{id: strings.ToLower(rand.Text())}
	}
	pipe := p.client.TxPipeline()
	visits := pipe.HIncrBy(ctx, sessionKey(s.id), "visits", 1)
	pipe.Expire(ctx, sessionKey(s.id), keptFor)
	_, err = pipe.Exec(ctx)
	s.visits = visits.Val()
	return s, err
}

// enter writes down in which room a session is.
func (p *plane) enter(ctx context.Context, session, room string) error {
	pipe := p.client.TxPipeline()
	pipe.HSet(ctx, sessionKey(session), "room", room)
	pipe.Expire(ctx, sessionKey(session), keptFor)
	_, err := pipe.Exec(ctx)
	return err
}

// publicName is a name for a session by which nobody can resume it.
func publicName(session string) string {
	sum := sha256.Sum256([]byte(session))
	return hex.EncodeToString(sum[:6])
}

func validSession(id string) bool { return len(id) == 26 && validName(id) }

// validName reports whether a room may be called so.
func validName(name string) bool {
	return name != "" && len(name) <= 64 && !strings.ContainsFunc(name, func(r rune) bool {
		return !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-", r)
	})
}
