package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/forkd/forkd/internal/advise"
	"github.com/forkd/forkd/internal/fleet"
	"github.com/forkd/forkd/internal/redisconfig"
)

// adviceView is an advice as it is shown: a JSON object, and what --exec gets on stdin.
type adviceView struct {
	App    string    `json:"app"`
	At     time.Time `json:"at"`               // by Redis's clock
	Leader string    `json:"leader,omitempty"` // with -f: who leads
	Token  string    `json:"token,omitempty"`  // the leader's
	advise.Advice
}

type adviseFlags struct {
	from         redisFlags
	policy       policyFlags
	follow, json bool
	act          bool
	exec         string
	within       time.Duration // of exec
}

func fleetAdviseCommand(std stdio) *cobra.Command {
	var f adviseFlags
	cmd := &cobra.Command{
		Use:   "advise APP",
		Short: "say how many hosts an app should have, and why",
		Long: `advise says how many hosts an app should have by its connections, which hosts to
drain and to remove, and which are too full. forkd adds and removes no hosts:
that is done by whoever reads this, by --exec, or by what polls fleet serve.

With -f it goes on. Of all that follow an app one leads, by a lock in Redis: it
decides, and it alone uses --exec and --act. The others wait for its end.

--exec gives a change to a shell command, one at a time: in FORKD_ADVICE_APP,
_DIRECTION (out, in), _HOSTS, _HOSTS_WANTED, _COMING, _ADD (hosts to start now),
_DRAIN, _RESUME, _REMOVE (hosts, with spaces between), _CONNECTIONS, _CAPACITY,
_UTILIZATION, _REASON and _TOKEN, and as JSON on its stdin. A command that fails
or takes too long is tried again later.

--act drains and resumes hosts, and has hosts that are too full shed
connections (--shed-per-second), by commands through Redis.`,
		Example: `  forkd fleet advise shop
  forkd fleet advise shop -f --act --exec ./hosts.sh --max-hosts 20`,
		Args:              exactly(1),
		ValidArgsFunction: appNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			policy, err := f.policy.check()
			switch {
			case err != nil:
				return err
			case !f.follow && (f.exec != "" || f.act):
				return usage("--exec and --act need -f: see forkd fleet advise --help")
			case f.within < time.Second || f.within > time.Hour:
				return usage("--exec-timeout %s: use 1s to 1h", f.within)
			case f.follow:
				f.from.readFrom = redisconfig.FromPrimary // a replica knows no leader
			}
			return f.from.withFleet(cmd.Context(), args[0], func(ctx context.Context, r fleetReader, where string) error {
				if f.follow {
					if all, err := r.Fleet(ctx, args[0], false); err != nil || len(all.Hosts) == 0 {
						return cmp.Or(err, unreported(args[0], where))
					}
					return f.run(ctx, std, r.Advisor(args[0], adviserID(), policy), args[0], where)
				}
				return f.once(ctx, std, r, args[0], policy, where)
			})
		},
	}
	f.from.register(cmd)
	cmd.Flags().BoolVarP(&f.follow, "follow", "f", false, "go on, and print what changes")
	cmd.Flags().BoolVar(&f.json, "json", false, "print a JSON object, with -f one a line")
	cmd.Flags().BoolVar(&f.act, "act", false, "drain, resume and shed by commands to the hosts")
	cmd.Flags().StringVar(&f.exec, "exec", "", "run the shell command `CMD` at each change")
	cmd.Flags().DurationVar(&f.within, "exec-timeout", time.Minute, "kill CMD after `TIME`")
	f.policy.register(cmd)
	return cmd
}

func (f *adviseFlags) once(ctx context.Context, std stdio, r fleetReader, app string, p advise.Policy, where string) error {
	fl, advice, err := r.Advice(ctx, app, p)
	switch {
	case err != nil:
		return err
	case len(fl.Hosts) == 0:
		return unreported(app, where)
	}
	v := adviceView{App: app, At: fl.At, Advice: advice}
	return output{to: std.out, what: "advice", json: f.json}.print(v, func(s screen) []string { return v.lines(s, "") })
}

// lines are the advice as text. The first begins with a prefix.
func (v *adviceView) lines(s screen, prefix string) []string {
	head := []string{sanitize(prefix+v.App) + ": " + plural(v.Hosts, "host"), fmt.Sprintf("%d wanted", v.HostsWanted)}
	if v.Coming > 0 {
		head = append(head, fmt.Sprintf("%d coming", v.Coming))
	}
	if v.Direction != advise.None {
		head = append(head, v.Direction)
	}
	lines := append(s.list(head), s.wrap(sanitize(v.Reason))...)
	var sheds []string
	for _, shed := range v.Shed {
		sheds = append(sheds, fmt.Sprintf("%s: %s in %ds", shed.Host, plural(shed.Count, "connection"), shed.Seconds))
	}
	pairs := [][2]string{
		{"drain", few(v.Drain)}, {"resume", few(v.Resume)}, {"remove", few(v.Remove)}, {"shed", few(sheds)},
	}
	if v.Add > 0 {
		pairs = append(pairs, [2]string{"add", plural(v.Add, "host")})
	}
	if v.Until != nil {
		pairs = append(pairs, [2]string{"until", clock(*v.Until, time.Now())})
	}
	return append(lines, s.keyValues(pairs)...)
}

func adviserID() string {
	host, _ := os.Hostname()
	return strings.ToValidUTF8(host[:min(len(host), 64)], "") + "/" + newID()
}

// fleetAdviser is what following needs of a *fleet.Advisor.
type fleetAdviser interface {
	Look(ctx context.Context) (fleet.Fleet, advise.Advice, error)
	Leads() (until time.Time, leads bool)
	Leader() string
	Token() string
	News(a advise.Advice) bool
	Telling(a advise.Advice) advise.Told
	Told(ctx context.Context, told advise.Told) error
	Send(ctx context.Context, host string, c fleet.Command) error
	Leave(ctx context.Context) error
}

// run follows the app until ctx ends or nobody reads what it prints.
func (f *adviseFlags) run(ctx context.Context, std stdio, from fleetAdviser, app, where string) error {
	ctx, stop := whileRead(ctx, std.out)
	defer stop()
	r := adviseRun{
		out: output{to: std.out, what: "advice", json: f.json, compact: true}, err: std.err,
		from: from, app: app, where: where, act: f.act, sent: map[string]time.Time{}, deaf: map[string]bool{},
	}
	if f.exec != "" {
		r.hook = (&hook{command: f.exec, within: f.within, out: std.err}).run
	}
	return r.run(ctx)
}
