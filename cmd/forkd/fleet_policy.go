package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/forkd/forkd/internal/advise"
)

// policyFlags are the flags of how a fleet scales.
type policyFlags struct{ policy advise.Policy }

// policyFlagOf is the flag of a field of the policy.
func policyFlagOf(field string) string {
	return map[string]string{
		"Limit":          "connection-limit-per-host",
		"MaxUtilization": "max-utilization-percent",
		"MinUtilization": "min-utilization-percent",
		"OverTolerance":  "overutilized-tolerance-percent",
		"UnderTolerance": "underutilized-tolerance-percent",
		"MinHosts":       "min-hosts",
		"MaxHosts":       "max-hosts",
		"OutCooldown":    "out-cooldown",
		"InCooldown":     "in-cooldown",
		"StartTimeout":   "start-timeout",
		"DrainTimeout":   "drain-timeout",
		"ShedPerSecond":  "shed-per-second",
	}[field]
}

func (f *policyFlags) register(cmd *cobra.Command) {
	p := &f.policy
	*p = advise.Default()
	flags := cmd.Flags()
	flags.Int64Var(&p.Limit, policyFlagOf("Limit"), p.Limit, "`CONNECTIONS` that a host may hold, instead of the capacity that each host reports")
	flags.Float64Var(&p.MaxUtilization, policyFlagOf("MaxUtilization"), p.MaxUtilization, "`PERCENT` that an out and an in aim at")
	flags.Float64Var(&p.MinUtilization, policyFlagOf("MinUtilization"), p.MinUtilization, "`PERCENT` below which there are too many hosts")
	flags.Float64Var(&p.OverTolerance, policyFlagOf("OverTolerance"), p.OverTolerance, "`POINTS` above the maximum at which hosts are added")
	flags.Float64Var(&p.UnderTolerance, policyFlagOf("UnderTolerance"), p.UnderTolerance, "`POINTS` below the minimum at which hosts are taken away")
	flags.IntVar(&p.MinHosts, policyFlagOf("MinHosts"), p.MinHosts, "never want fewer `HOSTS`")
	flags.IntVar(&p.MaxHosts, policyFlagOf("MaxHosts"), p.MaxHosts, "never want more `HOSTS`")
	flags.DurationVar(&p.OutCooldown, policyFlagOf("OutCooldown"), p.OutCooldown, "`TIME` from any change until hosts may be added")
	flags.DurationVar(&p.InCooldown, policyFlagOf("InCooldown"), p.InCooldown, "`TIME` from any change until hosts may be taken away")
	flags.DurationVar(&p.StartTimeout, policyFlagOf("StartTimeout"), p.StartTimeout, "wait for `TIME` for a host that was asked for")
	flags.DurationVar(&p.DrainTimeout, policyFlagOf("DrainTimeout"), p.DrainTimeout, "remove a host that drains after `TIME`, empty or not")
	flags.Float64Var(&p.ShedPerSecond, policyFlagOf("ShedPerSecond"), p.ShedPerSecond, "`CONNECTIONS` that a host that is too full closes in a second; 0: none")
}

// check returns the policy, or what is wrong with a flag.
func (f *policyFlags) check() (advise.Policy, error) {
	if bad, ok := errors.AsType[*advise.Setting](f.policy.Check()); ok {
		return f.policy, usage("--%s %s", policyFlagOf(bad.Field), bad.Text)
	}
	return f.policy, nil
}
