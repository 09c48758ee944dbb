package main

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/fleet"
	"github.com/forkd/forkd/internal/redisconfig"
)

// agentDataMax bounds the agent's heap between two looks of the master at its
// memory, in bytes (RLIMIT_DATA, setrlimit(2)): a wild answer of Redis ends it.
const agentDataMax = 512 << 20

// fleetAgentCommand is the fleet agent's process, which only a master starts.
func fleetAgentCommand(stdio) *cobra.Command {
	return &cobra.Command{
		Use:    "agent",
		Short:  "report an app to Redis; forkd run starts it",
		Hidden: true,
		Args:   exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			file := os.NewFile(redisconfig.AgentChannel, "channel")
			channel, err := net.FileConn(file)
			if err != nil {
				return usage("descriptor %d is no socket: forkd run starts this by itself, where redis.url is set", redisconfig.AgentChannel)
			}
			_ = file.Close() // channel has its own
			// Signals to all processes (of a terminal, of a service manager) are the
			// master's to act on. top shows the name: this runs as /proc/self/exe.
			signal.Ignore(syscall.SIGINT, syscall.SIGQUIT, syscall.SIGHUP, syscall.SIGTERM)
			_ = os.WriteFile("/proc/self/comm", []byte("forkd-agent"), 0)
			if err := unix.Setrlimit(unix.RLIMIT_DATA, &unix.Rlimit{Cur: agentDataMax, Max: agentDataMax}); err != nil {
				return fmt.Errorf("cannot limit the agent's memory: %v", err)
			}
			return fleet.RunAgent(cmd.Context(), channel, func() (net.Listener, error) {
				return net.FileListener(os.NewFile(redisconfig.AgentListener, "listener"))
			})
		},
	}
}
