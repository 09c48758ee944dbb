package fleetserve

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/forkd/forkd/internal/fleet"
)

const token = "correct horse battery staple"

func withToken() Config {
	c := still()
	c.Token = token
	return c
}

func sendOrder(s *server, body string, headers ...string) (int, string) {
	w := ask(s, http.MethodPost, "/command", body, append([]string{"Content-Type", "application/json", "Authorization", "Bearer " + token}, headers...)...)
	return w.Code, strings.TrimSpace(w.Body.String())
}

func TestCommand(t *testing.T) {
	t.Parallel()
	bubble(t, withToken, func(t *testing.T, s *server, source *synthetic) {
		source.host("web-2", func(h *fleet.Host) { h.Control = new(false) })
		source.host("web-3", func(h *fleet.Host) { h.Vanished = true })
		pass(1)
		for _, c := range []struct {
			body    string
			headers []string
			status  int
			text    string
		}{
			{`{"app":"shop","host":"web-1","op":"drain"}`, nil, 202, `{"id":"`},
			{`{"app":"shop","host":"web-1","op":"shed","count":5}`, nil, 503, `{"error":"cannot send it: its list is full"}`},
			{`{"app":"shop","host":"web-2","op":"drain"}`, nil, 409, `{"error":"web-2 takes no commands: set redis.control = true there"}`},
			{`{"app":"shop","host":"web-3","op":"drain"}`, nil, 404, `{"error":"no host \"web-3\" reports shop"}`},
			{`{"app":"shop","host":"","op":"drain"}`, nil, 404, `{"error":"no host \"\" reports shop"}`},
			{`{"app":"mail","host":"web-1","op":"drain"}`, nil, 404, `{"error":"no host reports an app \"mail\""}`},
			{`{"app":"shop","host":"web-1","op":"scale"}`, nil, 400, `{"error":"its op is none of drain, resume, shed"}`},
			{`{"app":"shop","host":"web-1","op":"drain","count":1}`, nil, 400, `{"error":"the command has args that drain does not take"}`},
			{`{"app":"shop","host":"web-1","op":"shed"}`, nil, 400, `{"error":"the command sheds 0 connections: 1 to 1073741824"}`},
			{`{"app":"shop","host":"web-1","op":"drain","x":1}`, nil, 400, `{"error":"it is no JSON of a command: unknown field \"x\""}`},
			{strings.Repeat("x", 5000), nil, 400, `{"error":"http: request body too large"}`},
			{`{}`, []string{"Content-Type", "text/plain"}, 400, `{"error":"its Content-Type is not application/json"}`},
			{`{}`, []string{"Authorization", "Basic x"}, 401, `{"error":"send the token: Authorization: Bearer TOKEN"}`},
			{`{}`, []string{"Authorization", "Bearer wrong"}, 401, `{"error":"the token is wrong"}`},
			{`{}`, []string{"Sec-Fetch-Site", "cross-site"}, 403, "cross-origin request detected"},
			{`{}`, []string{"Origin", "http://stranger.example"}, 403, "cross-origin request detected"},
			{`{}`, []string{"Host", "stranger.example"}, 421, `{"error":"this server is not called \"stranger.example\": start it with --name to allow that"}`},
		} {
			if status, text := sendOrder(s, c.body, c.headers...); status != c.status || !strings.HasPrefix(text, c.text) {
				t.Errorf("%.80s %q: %d %s, want %d %s", c.body, c.headers, status, text, c.status, c.text)
			}
		}
		if want := []string{"web-1 drain", "web-1 shed"}; !slices.Equal(source.sent, want) {
			t.Errorf("sent: %q, want %q", source.sent, want)
		}
	})
	bubble(t, still, func(t *testing.T, s *server, source *synthetic) {
		status, text := sendOrder(s, `{"app":"shop","host":"web-1","op":"drain"}`, "Authorization", "Bearer ")
		if status != 403 || len(source.sent) > 0 {
			t.Errorf("without a token to send: %d %s, %q", status, text, source.sent)
		}
	})
}

// Five wrong tokens, and an address has to wait; the right one does not help then.
func TestWrongTokens(t *testing.T) {
	t.Parallel()
	bubble(t, withToken, func(t *testing.T, s *server, source *synthetic) {
		const drain = `{"app":"shop","host":"web-1","op":"drain"}`
		for i := range wrongTokens {
			if status, text := sendOrder(s, drain, "Authorization", fmt.Sprint("Bearer ", i)); status != 401 {
				t.Fatalf("wrong token %d: %d %s", i, status, text)
			}
		}
		w := ask(s, http.MethodPost, "/command", drain, "Content-Type", "application/json", "Authorization", "Bearer "+token)
		if w.Code != 429 || w.Header().Get("Retry-After") != "12" || len(source.sent) > 0 {
			t.Errorf("the sixth: %d %v %s", w.Code, w.Header(), w.Body)
		}
		pass(6)
		if status, text := sendOrder(s, drain); status != 202 {
			t.Errorf("after 12 s: %d %s", status, text)
		}
	})
}

func TestGuard(t *testing.T) {
	t.Parallel()
	g, now := newGuard(token), time.Now()
	one, other := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	for range wrongTokens {
		g.check("x", one, now)
	}
	if right, wait := g.check(token, one, now); right || wait != wrongInterval {
		t.Errorf("%v, %s", right, wait)
	}
	if right, _ := g.check(token, other, now); !right {
		t.Error("another address has to wait too")
	}
	if right, _ := g.check(token, netip.MustParseAddr("::ffff:10.0.0.1"), now); right {
		t.Error("the same address, written as IPv6, has not to wait")
	}
	for i := range wrongTokens {
		g.check("x", netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(i)}), now)
	}
	if right, _ := g.check(token, netip.AddrFrom16([16]byte{0: 0xfd, 15: 99}), now); right {
		t.Error("an address of the same /64 has not to wait")
	}
	for i := range 3 * mostAddresses {
		g.check("x", netip.AddrFrom4([4]byte{11, 0, byte(i >> 8), byte(i)}), now)
	}
	if len(g.wrong) > mostAddresses+1 {
		t.Errorf("%d addresses are remembered", len(g.wrong))
	}
	g.check("x", one, now.Add(time.Hour))
	if len(g.wrong) != 1 {
		t.Errorf("%d addresses are remembered after an hour", len(g.wrong))
	}
}
