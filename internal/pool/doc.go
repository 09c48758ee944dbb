// Package pool decides. It holds what is wanted of an app and what is known of
// its workers, and answers each event with the actions that bring the second
// closer to the first.
//
// It keeps one invariant: [Pool.Step] is a function of the state, the time it is
// given and one event. There is no clock, no I/O and no chance in here, so that
// a night of crashes and rolls can be replayed in a millisecond. It does not
// log; what is worth telling is an action ([StateChanged], [RollProgress]).
//
// A worker's life, and what a slot without a live worker is:
//
//	spawning ─► starting ─► ready ─► draining ─► gone
//	    │           │         │                   ▲
//	    └───────────┴─────────┴── ended by itself ┘
//	                                 └─► the slot: backoff ─► spawning
//	                                               exited, failed (until a roll)
package pool
