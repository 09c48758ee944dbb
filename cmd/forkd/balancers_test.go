package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
	"github.com/rogpeppe/go-internal/testscript"
)

// recipe writes a recipe of docs/balancers.md to a file, with each OLD, which must be in it,
// replaced by NEW.
func recipe(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args)%2 != 0 {
		ts.Fatalf("usage: recipe FILE NAME [OLD NEW]...")
	}
	page, err := os.ReadFile("../../docs/balancers.md")
	ts.Check(err)
	_, text, found := strings.Cut(string(page), "<!-- "+args[1]+": a test takes these lines from here and runs them -->\n```")
	if !found {
		ts.Fatalf("docs/balancers.md has no %s", args[1])
	}
	_, text, _ = strings.Cut(text, "\n")
	text, _, _ = strings.Cut(text, "\n```\n")
	for i := 2; i < len(args); i += 2 {
		if !strings.Contains(text, args[i]) {
			ts.Fatalf("%s has no %q:\n%s", args[1], args[i], text)
		}
		text = strings.ReplaceAll(text, args[i], args[i+1])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text+"\n"), 0o644))
}

// echo answers a WebSocket with what it says, until it closes.
func echo(rw http.ResponseWriter, r *http.Request) {
	conn, _, _, err := ws.UpgradeHTTP(r, rw)
	if err != nil {
		return
	}
	defer conn.Close()
	for {
		text, err := wsutil.ReadClientText(conn)
		if err != nil || wsutil.WriteServerText(conn, text) != nil {
			return
		}
	}
}

// talkWebSocket talks to echo until a file is there: talk URL FILE. It says how often it
// got an answer, and makes FILE.began after the first.
func talkWebSocket() {
	url, file := os.Args[1], os.Args[2]
	ctx, cancel := context.WithTimeout(context.Background(), loadFor)
	defer cancel()
	conn, _, _, err := ws.Dial(ctx, url)
	orDie(err)
	defer conn.Close()
	orDie(conn.SetDeadline(time.Now().Add(loadFor)))
	answers := 0
	for _, err := os.Stat(file); err != nil; _, err = os.Stat(file) {
		text := fmt.Sprint("hello ", answers)
		orDie(wsutil.WriteClientText(conn, []byte(text)))
		got, err := wsutil.ReadServerText(conn)
		orDie(err)
		if string(got) != text {
			orDie(fmt.Errorf("%q came back as %q", text, got))
		}
		answers++
		orDie(os.WriteFile(file+".began", nil, 0o600))
		time.Sleep(10 * time.Millisecond) // the machine is for forkd
	}
	fmt.Println("answers", answers)
}
