package pool

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

//nolint:gochecknoglobals // a flag has to be known before the tests run
var update = flag.Bool("update", false, "rewrite the scenario files with what happens now")

// A scenario file has lines "# comment"; "set KEY VALUE", for the generations prepared
// later; "at TIME EVENT [ID] [key=value...]"; "ticks until TIME", which sends Ticked at
// each deadline up to then; and below each event, indented, the actions. An ID is
// slot.generation#attempt.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(want))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("(-want +got; -update rewrites it)\n%s", diff)
			}
		})
	}
}

// epoch is when scenarios and worlds begin. Any moment would do.
//
//nolint:gochecknoglobals // a constant, if times could be
var epoch = time.Unix(1_000_000_000, 0)

type player struct {
	t        *testing.T
	out      strings.Builder
	settings Settings
	slots    int
	pool     *Pool
}

func play(t *testing.T, script string) string {
	p := &player{t: t, slots: 2, settings: testSettings()}
	lines := bufio.NewScanner(strings.NewReader(script))
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "  ") {
			continue
		}
		fmt.Fprintln(&p.out, line)
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(line, "#") {
			continue
		}
		switch fields[0] {
		case "set": // before the first event, or for the generations prepared later
			p.set(fields[1], fields[2])
		case "at":
			p.step(p.duration(fields[1]), p.event(fields[2:]))
		case "ticks":
			p.ticks(p.duration(fields[2]))
		default:
			t.Fatalf("%q: not a line of a scenario", line)
		}
	}
	return p.out.String()
}

func testSettings() Settings {
	return Settings{
		Ready:   Ready{Mode: ReadyAuto, Delay: time.Second, Timeout: 30 * time.Second},
		Restart: Restart{Condition: RestartAny, Delay: 100 * time.Millisecond, MaxDelay: 30 * time.Second, Window: 5 * time.Second},
		Update:  Update{Parallelism: 1, Order: StartFirst, FailureAction: Rollback, Monitor: 5 * time.Second},
		Drain:   Drain{Timeout: 30 * time.Second},
		Health:  Health{Stall: 10 * time.Second},
	}
}

func (p *player) duration(text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		p.t.Fatal(err)
	}
	return d
}

func (p *player) set(key, value string) {
	n, _ := strconv.Atoi(value)
	s := &p.settings
	switch key {
	case "slots":
		p.slots = n
	case "ready.mode":
		s.Ready.Mode = ReadyMode(value)
	case "restart.condition":
		s.Restart.Condition = Condition(value)
	case "restart.clean_resets":
		s.Restart.CleanResets = value == "true"
	case "restart.prevent":
		s.Restart.Prevent = []int{n}
	case "restart.max_attempts":
		s.Restart.MaxAttempts = n
	case "update.parallelism":
		s.Update.Parallelism = n
	case "update.delay":
		s.Update.Delay = p.duration(value)
	case "update.monitor":
		s.Update.Monitor = p.duration(value)
	case "update.order":
		s.Update.Order = Order(value)
	case "update.failure_action":
		s.Update.FailureAction = FailureAction(value)
	case "drain.timeout":
		s.Drain.Timeout = p.duration(value)
	case "health.stall":
		s.Health.Stall = p.duration(value)
	case "health.abort":
		s.Health.Abort = value == "true"
	case "seen":
		for field := range strings.SplitSeq(value, ",") {
			p.see(field)
		}
	case "drain.delay":
		s.Drain.Delay = p.duration(value)
	default:
		p.t.Fatalf("set %s: no such setting", key)
	}
}

// see sets a field of Seen, by its name in lower case.
func (p *player) see(field string) {
	seen := map[string]*bool{
		"listeners": &p.settings.Seen.Listeners,
		"learns":    &p.settings.Seen.Learns,
		"listening": &p.settings.Seen.Listening,
		"accepting": &p.settings.Seen.Accepting,
		"notifies":  &p.settings.Seen.Notifies,
	}[field]
	if seen == nil {
		p.t.Fatalf("set seen %s: there is no such field", field)
	}
	*seen = true
}

// event reads an event's name, ID and values.
func (p *player) event(words []string) Event {
	var id ID
	values := map[string]string{}
	for _, word := range words[1:] {
		if key, value, ok := strings.Cut(word, "="); ok {
			values[key] = strings.ReplaceAll(value, "_", " ")
		} else if _, err := fmt.Sscanf(word, "%d.%d#%d", &id.Slot, &id.Generation, &id.Attempt); err != nil {
			p.t.Fatalf("%q: not an ID: %v", word, err)
		}
	}
	number := func(key string) int { n, _ := strconv.Atoi(values[key]); return n }
	switch words[0] {
	case "began":
		return Began{Fallback: values["fallback"] == "yes"}
	case "ticked":
		return Ticked{}
	case "prepared":
		slots := p.slots
		if _, given := values["slots"]; given {
			slots = number("slots")
		}
		return Prepared{number("gen"), p.settings, slots}
	case "prepare-failed":
		return PrepareFailed{number("gen"), values["why"]}
	case "started":
		return Started{id}
	case "start-failed":
		return StartFailed{ID: id, Reason: values["why"], Final: values["final"] == "yes"}
	case "hello-received":
		return HelloReceived{id}
	case "notified":
		return Notified{id}
	case "listened":
		return Listened{ID: id, Elsewhere: values["elsewhere"]}
	case "accepting":
		return Accepting{id}
	case "idled":
		return Idled{id}
	case "stalled":
		return Stalled{id}
	case "accepted":
		return Accepted{id}
	case "replace-requested":
		return ReplaceRequested{ID: id, Cause: CauseRequested, Why: values["why"], Abort: values["abort"] == "yes"}
	case "exited":
		exit := Exit{Code: number("code"), Words: "exit status " + values["code"]}
		if signal := number("signal"); signal != 0 {
			exit = Exit{Code: -1, Signal: signal, Words: "killed by signal " + values["signal"]}
		}
		return Exited{ID: id, Exit: exit, Leftovers: values["leftovers"] == "yes"}
	case "group-ended":
		return GroupEnded{id}
	case "roll-requested":
		return RollRequested{Reload: values["reload"] == "yes"}
	case "scale-requested":
		return ScaleRequested{number("slots"), "scale"}
	case "emptied":
		return Emptied{number("slot"), number("turn")}
	case "standby-requested":
		return StandbyRequested{}
	case "host-drain-requested":
		return HostDrainRequested{values["draining"] == "yes", "drain"}
	case "inherited":
		return Inherited{id, epoch.Add(p.duration(values["until"])), values["stop"] == "yes"}
	case "release-checked":
		return ReleaseChecked{number("gen"), values["lost"]}
	case "stop-requested":
		return StopRequested{Now: values["now"] == "yes"}
	default:
		p.t.Fatalf("%q: no such event", words[0])
		return nil
	}
}

func (p *player) step(after time.Duration, ev Event) {
	if p.pool == nil {
		p.pool = New(p.settings, p.slots, p.slots)
	}
	for _, a := range p.pool.Step(epoch.Add(after), ev) {
		fmt.Fprintf(&p.out, "  %s\n", describe(a))
	}
}

func (p *player) ticks(until time.Duration) {
	for {
		next := p.pool.Next()
		if next.IsZero() || next.After(epoch.Add(until)) {
			return
		}
		fmt.Fprintf(&p.out, "  -- %s\n", next.Sub(epoch))
		p.step(next.Sub(epoch), Ticked{})
	}
}

// describe writes an action on one line.
func describe(a Action) string {
	switch a := a.(type) {
	case Prepare:
		if a.Fallback {
			return fmt.Sprintf("prepare gen=%d, the fallback", a.Generation)
		}
		if a.Reload {
			return fmt.Sprintf("prepare gen=%d from the file", a.Generation)
		}
		return fmt.Sprintf("prepare gen=%d", a.Generation)
	case CheckRelease:
		return fmt.Sprintf("check-release gen=%d", a.Generation)
	case Forget:
		return fmt.Sprintf("forget gen=%d", a.Generation)
	case Start:
		return "start " + a.ID.String()
	case Restore:
		if a.Vacant {
			return fmt.Sprintf("restore slot=%d vacant", a.Slot)
		}
		return fmt.Sprintf("restore slot=%d", a.Slot)
	case Retire:
		abort := ""
		if a.Abort {
			abort = " by SIGABRT"
		}
		return fmt.Sprintf("retire %s %s until=%s%s", a.ID, a.Reason, a.Deadline.Sub(epoch), abort)
	case StopGroup:
		return "stop-group " + a.ID.String()
	case Kill:
		return "kill " + a.ID.String()
	case CloseListeners:
		return "close-listeners"
	case Released:
		return "released " + a.ID.String()
	case Steer:
		var slots []string
		for i, generation := range a.Serving {
			if generation != 0 {
				slots = append(slots, fmt.Sprintf("%d.%d", i, generation))
			}
		}
		return fmt.Sprintf("steer to [%s]", strings.Join(slots, " "))
	case Leave:
		return fmt.Sprintf("leave slot=%d turn=%d", a.Slot, a.Turn)
	case FellBack:
		return strings.TrimSuffix(fmt.Sprintf("fell back %d -> %d: %s; lost: %s", a.From, a.To, a.Why, a.Err), "; lost: ")
	case AppUp:
		return fmt.Sprintf("app-up %d/%d", a.Ready, a.Wanted)
	case Scaled:
		return fmt.Sprintf("scaled %d -> %d: %s", a.From, a.To, a.Why)
	case HostDrainChanged:
		return fmt.Sprintf("host draining=%t: %s", a.Draining, a.Why)
	case CloseSlot:
		return fmt.Sprintf("close slot=%d", a.Slot)
	case StateChanged:
		moved := fmt.Sprintf("state %s %s -> %s: %s", a.ID, orDash(a.From), orDash(a.To), a.Why)
		if a.To == StateBackoff {
			moved += fmt.Sprintf(" (for %s)", a.Wait)
		}
		return moved
	case Restarted:
		return fmt.Sprintf("restarted %s: %s", a.ID, a.Cause)
	case WorkerStalled:
		return fmt.Sprintf("stalled=%t %s: %s", a.Stalled, a.ID, a.Why)
	case Overloaded:
		return fmt.Sprintf("overloaded: %d of %d", a.Stalled, a.Of)
	case Replaced:
		text := fmt.Sprintf("replaced %s: %s", a.ID, a.Why)
		if a.Err != "" {
			text += fmt.Sprintf(": not replaced, %s", a.Err)
		}
		if a.Fault != "" {
			text += fmt.Sprintf(" (%s)", a.Fault)
		}
		return text
	case RollProgress:
		return fmt.Sprintf("roll %d -> %d %s %d/%d %s", a.From, a.To, a.Phase, a.Done, a.Of, a.Why)
	case RollEnded:
		return fmt.Sprintf("roll to %d ended: %s %s", a.Generation, a.Result, a.Why)
	case AppExited:
		return fmt.Sprintf("app-exited %d: %s", a.Code, a.Why)
	default:
		return fmt.Sprintf("%#v", a)
	}
}

func orDash(s State) string {
	if s == StateLive {
		return "-"
	}
	return string(s)
}
