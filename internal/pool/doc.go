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
// # What follows
//
// An app with one slot and default settings, by the state of its worker or slot:
// each event and its actions, "-> state" for [StateChanged]. Ticked comes at
// [Pool.Next]. An event without a line calls for no action.
//
// (table)
//
//	in every state
//	  HostDrainRequested{true}                  HostDrainChanged
//	  Inherited                                 StopGroup
//
//	starting, not running yet
//	  Ticked                                    CloseListeners
//	  StartFailed                               -> gone, Released, -> backoff, Restarted, -> starting, Start
//	  StartFailed{Final}                        CloseListeners, -> gone, Released, AppExited
//	  Exited                                    -> gone, Released, -> backoff, Restarted, -> starting, Start
//	  Exited{Leftovers}                         -> gone, StopGroup, -> backoff, Restarted, -> starting, Start
//	  RollRequested                             Prepare, roll preparing
//	  ScaleRequested{2}                         Scaled, -> starting, Start, Steer
//	  StopRequested, StopRequested{Now}         CloseListeners
//
//	starting
//	  Ticked                                    -> ready, Restore, AppUp, Steer
//	  Notified                                  -> ready, Restore, AppUp
//	  StartFailed, StartFailed{Final}, Exited   -> gone, Released, Restore, -> backoff, Restarted, -> starting, Start
//	  Exited{Leftovers}                         -> gone, StopGroup, Restore, -> backoff, Restarted, -> starting, Start
//	  RollRequested                             Prepare, roll preparing
//	  ScaleRequested{2}                         Scaled, -> starting, Start, Steer
//	  StandbyRequested                          -> draining, Retire
//	  StopRequested                             CloseListeners, -> draining, Retire
//	  StopRequested{Now}                        CloseListeners, -> draining, Retire, Kill
//
//	ready (as starting, but)
//	  Ticked                                    nothing
//	  Notified                                  nothing
//	  Stalled                                   stalled
//	  ReplaceRequested                          -> starting, Start
//
//	stalled (as ready, but)
//	  Ticked                                    -> starting, Start
//	  Stalled                                   nothing
//	  Accepted                                  no longer stalled
//
//	ready, its successor starting (as ready, but)
//	  Ticked                                    -> draining, Retire, not replaced
//	  ReplaceRequested                          nothing
//	  StartFailed, StartFailed{Final}, Exited   -> gone, Released, Restore
//	  Exited{Leftovers}                         -> gone, StopGroup, Restore
//	  StandbyRequested                          not replaced, -> draining, Retire, -> draining, Retire
//	  StopRequested                             CloseListeners, -> draining, Retire, not replaced, -> draining, Retire
//	  StopRequested{Now}                        CloseListeners, -> draining, Retire, not replaced, -> draining, Retire, Kill, Kill
//
//	starting, to replace another (as starting, but)
//	  Ticked                                    -> draining, Retire, not replaced
//	  Notified                                  -> ready, Restore, -> draining, Retire, Replaced
//	  StartFailed, StartFailed{Final}, Exited   -> gone, Released, Restore, not replaced
//	  Exited{Leftovers}                         -> gone, StopGroup, Restore, not replaced
//	  StandbyRequested                          not replaced, -> draining, Retire, -> draining, Retire
//	  StopRequested                             CloseListeners, -> draining, Retire, not replaced, -> draining, Retire
//	  StopRequested{Now}                        CloseListeners, -> draining, Retire, not replaced, -> draining, Retire, Kill, Kill
//
//	draining, its successor ready
//	  Ticked                                    roll ended: done
//	  ReplaceRequested                          not replaced
//	  StartFailed, StartFailed{Final}, Exited   -> gone, Released, Restore
//	  Exited{Leftovers}                         -> gone, StopGroup, Restore
//	  ScaleRequested{2}                         Scaled, -> starting, Start, roll monitoring, Steer
//	  StandbyRequested                          roll ended: canceled, Retire, -> draining, Retire
//	  StopRequested                             CloseListeners, roll ended: canceled, Retire, -> draining, Retire
//	  StopRequested{Now}                        CloseListeners, roll ended: canceled, Retire, Kill, -> draining, Retire, Kill
//
//	draining, the app stops
//	  Ticked                                    Kill
//	  ReplaceRequested                          not replaced
//	  StartFailed, StartFailed{Final}, Exited   -> gone, Released, AppExited
//	  Exited{Leftovers}                         -> gone, StopGroup
//	  StopRequested{Now}                        Kill
//
//	killed, the app stops (as draining, the app stops, but)
//	  Ticked                                    AppExited
//	  Exited{Leftovers}                         -> gone, Kill
//	  StopRequested{Now}                        nothing
//
//	gone, others of its group live
//	  Ticked                                    CloseListeners
//	  GroupEnded                                Released
//	  RollRequested                             Prepare, roll preparing
//	  ScaleRequested{2}                         Scaled, -> starting, Start, Steer
//	  StopRequested                             CloseListeners
//	  StopRequested{Now}                        CloseListeners, Kill
//
//	backoff
//	  Ticked                                    -> starting, Start
//	  RollRequested                             Prepare, roll preparing
//	  ScaleRequested{2}                         Scaled, -> starting, Start, Steer
//	  StandbyRequested                          -> exited, Steer
//	  StopRequested, StopRequested{Now}         CloseListeners, AppExited
//
//	exited (standby) (as backoff, but)
//	  Ticked                                    nothing
//	  ScaleRequested{2}                         Scaled, -> exited, Steer
//	  StandbyRequested                          nothing
//
//	ready, roll preparing (as ready, but)
//	  ReplaceRequested                          nothing
//	  Prepared                                  -> starting, Start, roll rolling
//	  PrepareFailed                             roll ended: rolled_back, Forget
//	  RollRequested                             nothing
//	  ScaleRequested{2}                         Scaled, -> starting, Start, roll preparing, Steer
//	  StandbyRequested                          roll ended: canceled, -> draining, Retire, Forget
//	  StopRequested                             CloseListeners, roll ended: canceled, -> draining, Retire, Forget
//	  StopRequested{Now}                        CloseListeners, roll ended: canceled, -> draining, Retire, Kill, Forget
//
//	starting, roll rolling (as starting, but)
//	  Ticked                                    -> draining, Retire, roll ended: rolled_back
//	  Notified                                  -> ready, Restore, -> draining, Retire, roll monitoring, Steer
//	  StartFailed, StartFailed{Final}, Exited   -> gone, Released, Restore, roll ended: rolled_back, Forget
//	  Exited{Leftovers}                         -> gone, StopGroup, Restore, roll ended: rolled_back, Forget
//	  RollRequested                             nothing
//	  ScaleRequested{2}                         Scaled, -> starting, Start, roll rolling, Steer
//	  StandbyRequested                          roll ended: canceled, -> draining, Retire, -> draining, Retire, Steer
//	  StopRequested                             CloseListeners, roll ended: canceled, -> draining, Retire, -> draining, Retire
//	  StopRequested{Now}                        CloseListeners, roll ended: canceled, -> draining, Retire, Kill, -> draining, Retire, Kill
//
//	ready, roll monitoring (as ready, but)
//	  Ticked                                    roll ended: done, Forget
//	  ReplaceRequested                          nothing
//	  StartFailed, StartFailed{Final}, Exited   -> gone, Released, Restore, CheckRelease, roll checking
//	  Exited{Leftovers}                         -> gone, StopGroup, Restore, CheckRelease, roll checking
//	  RollRequested                             nothing
//	  ScaleRequested{2}                         Scaled, -> starting, Start, roll monitoring, Steer
//	  StandbyRequested                          roll ended: canceled, -> draining, Retire
//	  StopRequested                             CloseListeners, roll ended: canceled, -> draining, Retire
//	  StopRequested{Now}                        CloseListeners, roll ended: canceled, -> draining, Retire, Kill
//
//	gone, roll checking (as backoff, but)
//	  Ticked                                    nothing
//	  ReleaseChecked                            -> starting, Start, roll rolling back, Steer
//	  ReleaseChecked{Lost}                      roll ended: failed, not rolled back, -> starting, Start, Forget
//	  RollRequested                             nothing
//	  ScaleRequested{2}                         Scaled, -> starting, Start, roll checking, Steer
//	  StandbyRequested                          roll ended: canceled, -> exited, Steer
//	  StopRequested, StopRequested{Now}         CloseListeners, roll ended: canceled, AppExited
//
// (end of table)
package pool

//go:generate go test -run ^TestTable$ . -update
