// Package haproxy keeps the servers of a backend of HAProxy in step with the hosts that
// report to Redis, through HAProxy's runtime API ([Sync]). It decides by the state that
// HAProxy has now and changes only what differs, so it needs to remember nothing to be
// right. What comes from Redis reaches HAProxy only as an address that has been parsed and
// as numbers; it never sends a name from there.
package haproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

const (
	timeout   = 2 * time.Second // of one request
	mostReply = 8 << 20         // bytes: some 60,000 servers
	mostShown = 200             // bytes of a reply in an error
)

// API is HAProxy's runtime API (its management guide, 9.3).
type API struct {
	Network, Address string // as for [net.Dial]
}

func (a API) ask(ctx context.Context, line string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, a.Network, a.Address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	reply, err := exchange(conn, line)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("no whole answer within %s", timeout)
	}
	return reply, err
}

func exchange(conn net.Conn, line string) (string, error) {
	if _, err := io.WriteString(conn, line+"\n"); err != nil {
		return "", err
	}
	reply, err := io.ReadAll(io.LimitReader(conn, mostReply+1))
	if err == nil && len(reply) > mostReply {
		err = fmt.Errorf("the answer has more than %d bytes", mostReply)
	}
	return string(reply), err
}

// The states of a server, as `set server` has them; of these it is in exactly one.
const (
	Ready = "ready"
	Drain = "drain" // nobody new; who sticks to it stays
	Maint = "maint"
)

type server struct {
	name    string
	addr    netip.AddrPort // 0.0.0.0:1 or the like: none was given yet
	state   string
	weight  int           // now
	initial int           // in the configuration
	since   time.Duration // the last change of its state
}

// The columns of `show servers state` (management guide, 9.3), and bits of its
// srv_admin_state.
const (
	columnName    = 3
	columnAddress = 4
	columnAdmin   = 6
	columnWeight  = 7
	columnInitial = 8
	columnSince   = 9
	columnPort    = 18

	forcedMaint = 0x01
	forcedDrain = 0x08
)

// parseState returns the servers of a backend, in its order. Of those without an address,
// such as those of unix sockets, addr is the zero value.
func parseState(reply string) ([]server, error) {
	text, ok := strings.CutPrefix(reply, "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_time_since_last_change ")
	if !ok {
		return nil, says(reply)
	}
	_, text, _ = strings.Cut(text, "\n")
	var servers []server
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if len(words) <= columnPort {
			return nil, says(line)
		}
		var numbers [columnSince + 1]int
		for c := columnAdmin; c <= columnSince; c++ {
			n, err := strconv.Atoi(words[c])
			if err != nil {
				return nil, says(line)
			}
			numbers[c] = n
		}
		s := server{
			name: words[columnName], state: Ready, weight: numbers[columnWeight], initial: numbers[columnInitial],
			since: time.Duration(numbers[columnSince]) * time.Second,
		}
		ip, err := netip.ParseAddr(words[columnAddress])
		port, portErr := strconv.ParseUint(words[columnPort], 10, 16)
		if err == nil && portErr == nil {
			s.addr = netip.AddrPortFrom(ip.Unmap(), uint16(port))
		}
		switch {
		case numbers[columnAdmin]&forcedMaint != 0:
			s.state = Maint
		case numbers[columnAdmin]&forcedDrain != 0:
			s.state = Drain
		}
		servers = append(servers, s)
	}
	return servers, nil
}

// says is the error of an answer that is not what was asked for.
func says(reply string) error {
	reply = strings.Join(strings.Fields(reply), " ")
	if reply == "" {
		return errors.New("HAProxy answers nothing")
	}
	return fmt.Errorf("HAProxy says %q", reply[:min(len(reply), mostShown)])
}
