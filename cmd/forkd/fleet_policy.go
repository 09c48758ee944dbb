package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/forkd/forkd/internal/advise"
)

type policyFlags struct{ policy advise.Policy }

func (f *policyFlags) register(cmd *cobra.Command) {
	p := &f.policy
	*p = advise.Default()
	flags := cmd.Flags()
	flags.Int64Var(&p.Limit, "connection-limit-per-host", p.Limit, "`CONNECTIONS` that a host may hold, instead of the capacity that each host reports")
	flags.Float64Var(&p.MaxUtilization, "max-utilization-percent", p.MaxUtilization, "`PERCENT` that an out and an in aim at")
	flags.Float64Var(&p.MinUtilization, "min-utilization-percent", p.MinUtilization, "`PERCENT` below which there are too many hosts")
	flags.Float64Var(&p.OverTolerance, "overutilized-tolerance-percent", p.OverTolerance, "`POINTS` above the maximum at which hosts are added")
	flags.Float64Var(&p.UnderTolerance, "underutilized-tolerance-percent", p.UnderTolerance, "`POINTS` below the minimum at which hosts are taken away")
	flags.IntVar(&p.MinHosts, "min-hosts", p.MinHosts, "never want fewer `HOSTS`")
	flags.IntVar(&p.MaxHosts, "max-hosts", p.MaxHosts, "never want more `HOSTS`")
	flags.DurationVar(&p.OutCooldown, "out-cooldown", p.OutCooldown, "`TIME` from any change until hosts may be added")
	flags.DurationVar(&p.InCooldown, "in-cooldown", p.InCooldown, "`TIME` from any change until hosts may be taken away")
	flags.DurationVar(&p.StartTimeout, "start-timeout", p.StartTimeout, "wait for `TIME` for a host that was asked for")
	flags.DurationVar(&p.DrainTimeout, "drain-timeout", p.DrainTimeout, "remove a host that drains after `TIME`, empty or not")
	flags.Float64Var(&p.ShedPerSecond, "shed-per-second", p.ShedPerSecond, "`CONNECTIONS` that a host that is too full closes in a second; 0: none")
}

// check returns the policy, or what is wrong with a flag.
func (f *policyFlags) check() (advise.Policy, error) {
	if bad, ok := errors.AsType[*advise.Setting](f.policy.Check()); ok {
		return f.policy, usage("--%s %s", bad.Name, bad.Text)
	}
	return f.policy, nil
}
