package fleet

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/forkd/forkd/internal/redisconfig"
)

const (
	timeout         = time.Second            // of a reporter, with one answer and with connecting; of a reader with connecting
	readerTimeout   = 10 * time.Second       // of a reader with one answer: 500 hosts with their workers are megabytes
	sentinelTimeout = 400 * time.Millisecond // with a Sentinel: go-redis waits for all of them
)

// poolSize is the most connections of a client. One is enough for a reporter, but
// after so many failures go-redis would begin to dial on its own schedule.
const poolSize = 64

// dialer opens a connection: [net.Dialer.DialContext], but for tests.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// dial makes a client for what s.URL names. It connects when it is first used, and
// asks the file of the password again for each connection. A reader's
// reads at s.ReadFrom.
//
// With ReadFrom "replica" Sentinel's client can't write: who sends commands dials
// with "primary".
func dial(s Settings, reader bool) (redis.UniversalClient, error) {
	return dialThrough(context.Background(), s, reader, direct())
}

func direct() dialer {
	return (&net.Dialer{Timeout: timeout, KeepAlive: 15 * time.Second}).DialContext
}

// dialThrough is dial by other means. The connections end with life.
func dialThrough(life context.Context, s Settings, reader bool, through dialer) (redis.UniversalClient, error) {
	redis.SetLogger(silent{})
	e, err := redisconfig.ParseURL(s.URL)
	if err != nil {
		return nil, &BadSetting{Key: "url", Text: err.Error()}
	}
	o := &redis.UniversalOptions{
		Addrs:                      e.Addresses,
		DB:                         e.DB,
		MasterName:                 e.Master,
		IsClusterMode:              e.Cluster,
		CredentialsProviderContext: credentials(s, e),
		Protocol:                   2,
		DisableIdentity:            true,
		MaintNotificationsConfig:   &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		MaxRetries:                 -1, // the reporter has its own retry schedule
		MaxRedirects:               3,
		DialTimeout:                timeout,
		DialerRetries:              1,
		ReadTimeout:                timeout,
		WriteTimeout:               timeout,
		PoolTimeout:                timeout,
		ContextTimeoutEnabled:      true,
		PoolSize:                   poolSize,
		PipelinePoolSize:           -1,
		ReadBufferSize:             4 << 10,
		WriteBufferSize:            16 << 10,
	}
	limit := reporterLimits()
	if reader {
		limit = readerLimits()
		o.ReadTimeout, o.WriteTimeout, o.PoolTimeout = readerTimeout, readerTimeout, readerTimeout
		o.ReadBufferSize = 64 << 10
		o.ReadOnly = s.ReadFrom == redisconfig.FromReplica && (e.Master != "" || e.Cluster)
		o.RouteRandomly = o.ReadOnly && e.Cluster
	}
	var over *tls.Config
	if e.TLS {
		roots, err := redisconfig.ReadCA(s.CAFile)
		if err != nil {
			return nil, err
		}
		over = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
	}
	o.Dialer = func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(life, cancel)()
		ofSentinel := e.Master != "" && slices.Contains(e.Addresses, address)
		within := timeout
		if ofSentinel {
			within = sentinelTimeout
		}
		conn, err := connect(ctx, within, through, network, address, over)
		switch {
		case err != nil:
			return nil, err
		case ofSentinel:
			return sentinelConn{guarded(life, conn, limit)}, nil
		}
		return guarded(life, conn, limit), nil
	}
	return redis.NewUniversalClient(o), nil
}

// connect opens a connection, with TLS where there is a config. The name that a
// certificate must have is the host of the address.
func connect(ctx context.Context, within time.Duration, through dialer, network, address string, over *tls.Config) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	conn, err := through(ctx, network, address)
	if err != nil || over == nil {
		return conn, err
	}
	over = over.Clone()
	over.ServerName, _, err = net.SplitHostPort(address)
	if err != nil {
		over.ServerName = address
	}
	secure := tls.Client(conn, over)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("cannot agree on TLS with %s: %v", address, err)
	}
	return secure, nil
}

// credentials returns what is asked for the user and password of each connection.
func credentials(s Settings, e redisconfig.Endpoint) func(context.Context) (username, password string, err error) {
	user := cmp.Or(s.Username, e.Username)
	reading := make(chan struct{}, 1) // on a disk that hangs, one blocks a thread and not each
	return func(ctx context.Context) (string, string, error) {
		if s.PasswordFile == "" {
			return user, e.Password, nil
		}
		select {
		case reading <- struct{}{}:
			defer func() { <-reading }()
		case <-ctx.Done():
			return "", "", &BadSetting{Key: "password_file", Text: "it is still being read"}
		}
		password, err := redisconfig.ReadSecret(s.PasswordFile)
		return user, password, err
	}
}

// sentinelConn is a connection to a Sentinel. One that hangs must not take the time
// that is for the primary, whose address another Sentinel knows.
type sentinelConn struct{ net.Conn }

func (c sentinelConn) SetDeadline(t time.Time) error     { return c.Conn.SetDeadline(sooner(t)) }
func (c sentinelConn) SetReadDeadline(t time.Time) error { return c.Conn.SetReadDeadline(sooner(t)) }

func (c sentinelConn) SetWriteDeadline(t time.Time) error { return c.Conn.SetWriteDeadline(sooner(t)) }

// sooner is t, at most sentinelTimeout from now. No deadline stays none: of a subscriber.
func sooner(t time.Time) time.Time {
	if most := time.Now().Add(sentinelTimeout); t.After(most) {
		return most
	}
	return t
}

// silent drops what go-redis would print to standard error: it comes back as errors
// anyway.
type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}
