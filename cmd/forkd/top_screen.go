package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// key is what a terminal sends for a key (XTerm Control Sequences, PC-Style Function Keys).
type key string

const (
	keyUp       = "\x1b[A"
	keyDown     = "\x1b[B"
	keyPageUp   = "\x1b[5~"
	keyPageDown = "\x1b[6~"

	keyEnter     = "\r"
	keyEscape    = "\x1b"
	keyBackspace = "\x7f"
	keyInterrupt = "\x03" // Ctrl-C
)

// What begins and ends the full screen: the alternate one, without a cursor, and without
// wrapping, so that nothing moves where a character takes two columns; and the title.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b]2;forkd top\a"
	leaveScreen = "\x1b]2;\a\x1b[?7h\x1b[?25h\x1b[?1049l"
)

// escapeWait is how long the rest of a key's sequence is waited for behind an escape, which
// is a key too.
const escapeWait = 50 * time.Millisecond

// command is what a model has done on a goroutine; it returns the next message.
type command func() any

// quit is the message that ends it.
type quit struct{}

// show runs a model on the whole screen until it quits, or a signal ends it.
func (m top) show(ctx context.Context, std stdio) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if before, err := term.MakeRaw(int(std.in.Fd())); err == nil { // else it is no terminal
		defer func() { _ = term.Restore(int(std.in.Fd()), before) }()
	}
	winch := make(chan os.Signal, 1)
	signal.Notify(winch, syscall.SIGWINCH)
	defer signal.Stop(winch)

	messages := make(chan any)
	send := func(message any) {
		select {
		case messages <- message:
		case <-ctx.Done():
		}
	}
	run := func(c command) {
		if c != nil {
			go func() { send(c()) }()
		}
	}
	go readKeys(std.in, func(k key) { send(k) }) // until the process ends
	if _, err := std.out.WriteString(enterScreen); err != nil {
		return fmt.Errorf("cannot draw: %w", err)
	}
	defer func() { _, _ = std.out.WriteString(leaveScreen) }()
	m = m.fit(std)
	run(m.ask())
	var drawn []string
	for {
		lines := m.draw(screen{width: m.width, height: m.height, color: m.color})
		if _, err := std.out.WriteString(changes(drawn, lines)); err != nil {
			return fmt.Errorf("cannot draw: %w", err)
		}
		drawn = lines
		select {
		case message := <-messages:
			if _, ok := message.(quit); ok {
				return nil
			}
			var then command
			m, then = m.update(message)
			run(then)
		case <-winch:
			m, drawn = m.fit(std), nil
		case <-ctx.Done():
			return nil
		}
	}
}

func (m top) fit(std stdio) top {
	s := screenOf(std.out)
	m.width, m.height = s.width, s.height
	return m
}

// changes draws the lines that differ from those before; nil: from whatever is there.
func changes(before, lines []string) string {
	var text strings.Builder
	if before == nil {
		text.WriteString("\x1b[2J")
	}
	for i := range max(len(before), len(lines)) {
		switch {
		case i >= len(lines):
			fmt.Fprintf(&text, "\x1b[%d;1H\x1b[2K", i+1)
		case i >= len(before) || before[i] != lines[i]:
			fmt.Fprintf(&text, "\x1b[%d;1H\x1b[2K%s", i+1, lines[i])
		}
	}
	return text.String()
}

// readKeys calls f for each key, until nothing more can be read.
func readKeys(in *os.File, f func(key)) {
	var text []byte
	for buffer := make([]byte, 256); ; {
		n, err := in.Read(buffer)
		if err != nil {
			return
		}
		for text = append(text, buffer[:n]...); len(text) > 0; {
			n := firstKey(text)
			if n == 0 && comes(in) {
				break
			}
			k := text[:max(n, 1)]
			text = text[len(k):]
			f(key(strings.Replace(string(k), "\x1bO", "\x1b[", 1))) // a terminal in application mode
		}
	}
}

// firstKey is how many bytes the first key has; 0: more are to come.
func firstKey(text []byte) int {
	const longest = 32 // of a sequence
	switch {
	case !utf8.FullRune(text):
		return 0
	case text[0] != '\x1b':
		_, n := utf8.DecodeRune(text)
		return n
	case len(text) == 1:
		return 0
	case text[1] == 'O' && len(text) == 2:
		return 0
	case text[1] == 'O':
		return 3
	case text[1] != '[':
		return 1
	}
	for i, c := range text[2:] {
		if c >= '@' && c <= '~' {
			return i + 3
		}
	}
	if len(text) > longest {
		return 1
	}
	return 0
}

// comes reports whether more can be read soon.
func comes(in *os.File) bool {
	fds := []unix.PollFd{{Fd: int32(in.Fd()), Events: unix.POLLIN}}
	_, _ = unix.Poll(fds, int(escapeWait.Milliseconds()))
	return fds[0].Revents&unix.POLLIN != 0
}
