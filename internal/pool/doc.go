// Package pool decides. It holds the desired and the observed state of an app, and
// answers each event with the actions that move the observed state towards the
// desired one.
//
// The invariant: [Pool.Step] is a function of the state, the time it is
// given and one event. It has no clock, no I/O and no randomness (a jitter would need
// a seed in the [Settings]), so that a night of crashes and rolls is replayed in a
// millisecond. It does not log: what is worth reporting is an action
// ([StateChanged], [RollProgress]).
//
// What follows each event in each state of an app with one slot and default settings is in
// table.txt, which is generated from Step: the actions, and "-> state" for [StateChanged].
// Ticked comes at [Pool.Next]. An event without a line calls for no action.
package pool

//go:generate go test -run ^TestTable$ . -update
