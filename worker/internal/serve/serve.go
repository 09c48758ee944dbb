// Package serve is the part that httpserve and fasthttpserve share: TLS or not,
// deferred accept, and the answers to connections over the worker's limit. It must
// not import a server.
package serve

import (
	"crypto/tls"
	"net"
	"time"

	"github.com/forkd/forkd/worker"
)

// Server is a net/http or a fasthttp server.
type Server interface {
	Serve(ln net.Listener) error
	ServeTLS(ln net.Listener, certFile, keyFile string) error
}

// Serve serves srv on ln: with TLS if its config has certificates and ln does not make
// TLS connections already. idle is how long a connection may wait for its next request;
// 0 or less: for ever.
func Serve(w *worker.Worker, srv Server, config *tls.Config, idle time.Duration, ln net.Listener) error {
	worker.AwaitData(ln)
	encrypt := worker.Plain(ln) && config != nil &&
		(len(config.Certificates) > 0 || config.GetCertificate != nil || config.GetConfigForClient != nil)
	if encrypt {
		config = refusalConfig(config)
	} else {
		config = nil
	}
	if !encrypt {
		worker.Movable(ln, idle)
	}
	return w.Serve(ln, func(ln net.Listener) error {
		worker.Refuse(ln, func(c net.Conn) { refuse(c, config) })
		if encrypt {
			return srv.ServeTLS(ln, "", "")
		}
		return srv.Serve(ln)
	})
}
