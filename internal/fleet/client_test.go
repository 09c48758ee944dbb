package fleet

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/redisconfig"
)

// The password is read again at each connection, and never said.
func TestPasswordFile(t *testing.T) {
	m := miniredis.RunT(t)
	m.RequireUserAuth("ann", "hunter2")
	file := filepath.Join(t.TempDir(), "password")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("wrong-one\n")
	s := Settings{URL: "redis://" + m.Addr(), Username: "ann", PasswordFile: file}
	client, err := dial(s, true)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.Ping(t.Context()).Err(); err == nil || strings.Contains(err.Error(), "wrong-one") {
		t.Errorf("with a wrong password: %v", err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := client.Ping(t.Context()).Err(); err == nil || !strings.Contains(err.Error(), "password_file") {
		t.Errorf("without the file: %v", err)
	}
	write("hunter2\r\nsecond line\n")
	if err := client.Ping(t.Context()).Err(); err != nil {
		t.Errorf("with the right one: %v", err)
	}
}

func TestTLS(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "redis"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	m := miniredis.NewMiniRedis()
	if err := m.StartTLS(&tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: key}}}); err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600); err != nil {
		t.Fatal(err)
	}
	ping := func(s Settings) error {
		t.Helper()
		client, err := dial(s, false)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		return client.Ping(t.Context()).Err()
	}
	if err := ping(Settings{URL: "rediss://" + m.Addr(), CAFile: ca}); err != nil {
		t.Error(err)
	}
	if err := ping(Settings{URL: "rediss://" + m.Addr()}); err == nil || !strings.Contains(err.Error(), "TLS") {
		t.Errorf("a certificate of nobody known: %v", err)
	}
	if err := ping(Settings{URL: "rediss://" + strings.Replace(m.Addr(), "127.0.0.1", "localhost", 1), CAFile: ca}); err == nil || !strings.Contains(err.Error(), "TLS") {
		t.Errorf("a certificate of another name: %v", err)
	}
}

// The clients of all kinds are made without connecting, and go when they are closed.
func TestDialDoesNotConnect(t *testing.T) {
	for _, url := range []string{"redis://127.0.0.1:1", "rediss://127.0.0.1:1", "unix:///nowhere", "redis+sentinel://127.0.0.1:1/mine", "redis+cluster://127.0.0.1:1,127.0.0.1:2"} {
		for _, reader := range []bool{false, true} {
			client, err := dial(Settings{URL: url, ReadFrom: redisconfig.FromReplica}, reader)
			if err != nil {
				t.Fatal(err)
			}
			if err := client.Ping(t.Context()).Err(); err == nil {
				t.Errorf("%s answers", url)
			}
			if err := client.Close(); err != nil {
				t.Errorf("%s: %v", url, err)
			}
		}
	}
	if _, err := dial(Settings{URL: "embedded"}, true); err == nil {
		t.Error("embedded is no URL here")
	}
}

// A Sentinel that hangs does not keep the others from saying where the primary is.
func TestSentinelThatHangs(t *testing.T) {
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close() // the kernel takes connections, and nobody answers
	m := miniredis.RunT(t)
	err = m.Server().Register("SENTINEL", func(c *server.Peer, _ string, args []string) {
		if args[0] == "get-master-addr-by-name" {
			c.WriteStrings([]string{m.Host(), m.Port()})
			return
		}
		c.WriteLen(0)
	})
	if err != nil {
		t.Fatal(err)
	}
	w := wired(t, "redis+sentinel://"+ln.Addr().String()+","+m.Addr()+"/mine")
	began := time.Now()
	if _, err := w.send(t.Context(), heartbeat{kind: heartbeatReport, host: "web-1", boot: "a", ttl: time.Minute, fields: []any{"boot", "a"}}); err != nil {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
}

// Hundreds of failures leave no descriptors and goroutines (goleak looks at the end)
// behind.
func TestNothingGrowsWhileDown(t *testing.T) {
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	tries := make(chan struct{}, 1000)
	go func() {
		defer close(ended)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("-ERR go away\r\n-ERR go away\r\n"))
			_ = conn.Close()
			tries <- struct{}{}
		}
	}()
	s := Settings{URL: "redis://" + ln.Addr().String(), HostID: "web-1", Interval: redisconfig.MinInterval}
	before := descriptors(t)
	r, err := Start(s, App{Name: "shop", Boot: "a"}, newApp(1), slog.New(slog.DiscardHandler), func(control.Redis) {})
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		<-tries
	}
	if n := descriptors(t); n > before+4 { // the one under way, both ends
		t.Errorf("%d descriptors after 10 failures, %d before", n, before)
	}
	if h := r.Health(); h.State != control.RedisConnecting || h.Error == "" {
		t.Errorf("%+v", h)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	r.Close(ctx, true)
	_ = ln.Close()
	<-ended
	if n := descriptors(t); n > before {
		t.Errorf("%d descriptors at the end, %d before", n, before)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
