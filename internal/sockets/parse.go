package sockets

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"
)

// AddressForms says how an address can be written.
const (
	AddressForms = `write ":8080", "127.0.0.1:8080", "tcp://[::1]:8080" or "unix:///run/shop.sock"`
	tcpForms     = `write ":8080", "127.0.0.1:8080" or "tcp://[::1]:8080"`
)

// DefaultBacklog is what a listener of a configuration starts from; the kernel cuts
// it to net.core.somaxconn (listen(2)).
const DefaultBacklog = 4096

// Address is where l listens, in the form that ParseAddress reads.
func (l Listener) Address() string {
	if l.Network != "unix" {
		return l.Network + "://" + net.JoinHostPort(l.Host, strconv.Itoa(l.Port))
	}
	address := "unix://" + l.Path
	if l.Perm != 0 {
		address += fmt.Sprintf("?mode=%04o", l.Perm)
	}
	return address
}

// ParseAddress reads [tcp://|tcp4://|tcp6://]HOST:PORT, :PORT or PORT, and
// unix:///PATH, unix:PATH, /PATH, ./PATH or ../PATH with ?mode=OCTAL after it.
// It fills in Network, Host, Port, Path (as it was written) and Perm.
func ParseAddress(address string) (l Listener, err error) {
	path, isUnix := strings.CutPrefix(address, "unix:")
	for _, begin := range []string{"/", "./", "../"} {
		isUnix = isUnix || strings.HasPrefix(address, begin)
	}
	if isUnix {
		l, err = parseUnix(path)
	} else {
		l, err = parseTCP(address, AddressForms, "use tcp://, tcp4://, tcp6:// or unix://")
	}
	if err != nil {
		return Listener{}, fmt.Errorf("%q: %w", address, err)
	}
	return l, nil
}

// parseUnix reads what follows "unix:". The first question mark ends the path.
func parseUnix(rest string) (l Listener, err error) {
	if path, full := strings.CutPrefix(rest, "//"); full {
		if !strings.HasPrefix(path, "/") {
			host, _, _ := strings.Cut(path, "/")
			return l, fmt.Errorf("%q stands where a host's name would: write unix:///PATH, or unix:PATH for a relative one", host)
		}
		rest = path
	}
	path, query, asked := strings.Cut(rest, "?")
	l = Listener{Network: "unix", Path: path}
	switch base := filepath.Base(path); {
	case base == "." || base == ".." || base == "/":
		return l, errors.New("the socket's path is missing: write unix:///run/shop.sock")
	case strings.HasSuffix(path, "/"):
		return l, errors.New("this is a directory's path: name the socket's file")
	case path[0] == '@':
		return l, errors.New("a socket without a file has no access mode: write unix:///run/shop.sock")
	case strings.ContainsFunc(path, unicode.IsControl):
		return l, errors.New("the path holds a control character")
	}
	if asked {
		l.Perm, err = parseQuery(query)
	}
	return l, err
}

// parseQuery reads mode=OCTAL. A mode of 0 would keep everybody out.
func parseQuery(query string) (fs.FileMode, error) {
	key, text, _ := strings.Cut(query, "=")
	if key != "mode" {
		return 0, fmt.Errorf("%q is not known after the question mark: there is mode, as in ?mode=0660", key)
	}
	mode, err := strconv.ParseUint(text, 8, 32)
	switch {
	case err != nil || mode > 0o777:
		return 0, fmt.Errorf("mode: %q is not an access mode: write octal digits up to 0777, as in ?mode=0660", text)
	case mode == 0:
		return 0, fmt.Errorf("mode: nobody could connect with %q: write one as in ?mode=0660", text)
	}
	return fs.FileMode(mode), nil
}

// ParseTCP reads [tcp://|tcp4://|tcp6://]HOST:PORT, :PORT or PORT, where no unix socket can be.
func ParseTCP(address string) (Listener, error) {
	if strings.HasPrefix(address, "unix:") || strings.Contains(address, "/") && !strings.Contains(address, "://") {
		return Listener{}, errors.New("it must be a TCP address, not a unix socket: " + tcpForms)
	}
	return parseTCP(address, tcpForms, "use tcp://, tcp4:// or tcp6://")
}

// parseTCP is [ParseTCP]. forms and schemes say in errors what could stand there.
func parseTCP(address, forms, schemes string) (l Listener, err error) {
	network, rest, schemed := strings.Cut(address, "://")
	if !schemed {
		network, rest = "tcp", address
	}
	switch network {
	case "tcp", "tcp4", "tcp6":
	case "udp":
		return l, fmt.Errorf("udp is not built yet: %s", schemes)
	default:
		return l, fmt.Errorf("%q is no scheme: %s", network, schemes)
	}
	if !strings.Contains(rest, ":") {
		if _, err := strconv.Atoi(rest); err != nil {
			if strings.Contains(rest, "/") {
				return l, errors.New(`a unix socket's path begins with "/" or "./": ` + forms)
			}
			return l, errors.New("the port is missing: " + forms)
		}
		rest = ":" + rest
	}
	host, digits, err := net.SplitHostPort(rest)
	if err != nil {
		return l, errors.New("not an address: " + forms)
	}
	port, err := strconv.ParseUint(digits, 10, 16)
	if err != nil {
		return l, fmt.Errorf("the port must be a number from 0 to 65535, not %q", digits)
	}
	l.Network, l.Port = network, int(port)
	ip, err := parseHost(network, host)
	if err == nil && host != "" && host != "*" {
		l.Host = ip.String()
	}
	return l, err
}

// parseHost reads a host as an address, never v4-mapped; "" and "*" are every one of the
// host's. Names are not looked up: what they mean may change.
func parseHost(network, host string) (ip netip.Addr, err error) {
	switch {
	case (host == "" || host == "*") && network == "tcp4":
		return netip.IPv4Unspecified(), nil
	case host == "" || host == "*":
		return netip.IPv6Unspecified(), nil
	case host == "localhost" && network == "tcp6":
		return netip.IPv6Loopback(), nil
	case host == "localhost":
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), nil
	}
	if ip, err = netip.ParseAddr(host); err != nil {
		return ip, fmt.Errorf("%q is not an IP address: use one of this machine, or none for every one", host)
	}
	ip = ip.Unmap()
	switch {
	case network == "tcp4" && !ip.Is4():
		return ip, errors.New("tcp4:// needs an IPv4 address")
	case network == "tcp6" && ip.Is4():
		return ip, errors.New("tcp6:// needs an IPv6 address")
	}
	return ip, nil
}
