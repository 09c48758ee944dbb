package fleetserve

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/fleet"
	"github.com/forkd/forkd/test/ports"
)

// serve serves a source, often, until the test ends, and returns the page's URL.
func serve(t *testing.T, c Config) string {
	t.Helper()
	l := standard()
	l.period, l.lookup = 200*time.Millisecond, 500*time.Millisecond
	return serveWithin(t, c, l)
}

func serveWithin(t *testing.T, c Config, l limits) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- newServer(c, l).serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return "http://" + ln.Addr().String() + "/"
}

// lively is a fleet with something of everything.
func lively(hosts int) *synthetic {
	s := newSynthetic(hosts, 8)
	at := func(i int, f func(h *fleet.Host)) { s.host(s.hosts[i].ID, f) }
	for i := range hosts {
		at(i, func(h *fleet.Host) {
			share := 0.25 + 0.5*float64((i*7919)%97)/97 // of the capacity
			for k := range h.Workers {
				h.Workers[k].Connections = new(int64(share * perHost / 8 * (0.8 + 0.4*float64((i+3*k)%5)/4)))
			}
		})
	}
	at(1, func(h *fleet.Host) { // rolls
		h.Generation = new(int64(4))
		for k := range 3 {
			h.Workers[k].Generation = new(int64(4))
		}
		old := h.Workers[3]
		old.State, old.Connections = control.StateDraining, new(int64(180))
		h.Workers[3].Generation, h.Workers[3].State, h.Workers[3].Connections = new(int64(4)), control.StateStarting, new(int64)
		h.Workers = append(h.Workers[:3:3], append([]fleet.Worker{old}, h.Workers[3:]...)...)
		h.Moved = new(int64(412))
	})
	at(3, func(h *fleet.Host) { h.State = control.StateDraining })
	at(4, func(h *fleet.Host) {
		h.Workers[5].Stalled, h.Workers[5].Queue, h.Queue = true, new(int64(31)), new(int64(31))
	})
	at(5, func(h *fleet.Host) {
		for k := range h.Workers {
			h.Workers[k].Connections = new(int64(perHost * 86 / 100 / 8))
		}
	})
	at(6, func(h *fleet.Host) { h.Stale = true })
	at(7, func(h *fleet.Host) { h.Vanished = true })
	at(8, func(h *fleet.Host) {
		w := &h.Workers[7]
		w.State, w.PID, w.Connections, h.Ready = "backoff", nil, nil, new(int64(7))
	})
	for _, of := range [][3]string{
		{s.hosts[1].ID, "roll_started", "by the fleet"},
		{s.hosts[8].ID, "crashed", "slot 7: SIGSEGV, the third time in a row; its last output: panic: runtime error: invalid memory address"},
		{s.hosts[8].ID, "backoff", "starts again in 1.6s"},
		{s.hosts[4].ID, "stalled", "31 connections wait, none accepted for 10s"},
		{s.hosts[3].ID, "draining", "by a command of the fleet"},
		{s.hosts[0].ID, "ready", ""},
	} {
		s.happen(of[0], of[1], "", of[2])
	}
	return s
}

// The page says nothing wrong on the console and violates no policy, shows the hosts,
// and follows what happens to them.
func TestPage(t *testing.T) {
	source := lively(10)
	b := startBrowser(t)
	b.screen(1440, 960, "light")
	b.open(serve(t, config(source)))
	b.until(`document.querySelectorAll("#grid > li[data-host]").length === 10`)
	b.until(`document.querySelector("#link").dataset.state === "live"`)
	b.until(`document.querySelectorAll("#events li").length === 6`)
	for host, mark := range map[string]string{"web-02": "rolling", "web-04": "draining", "web-05": "1 stalled", "web-07": "stale", "web-08": "vanished"} {
		b.until(fmt.Sprintf(`document.querySelector("[data-host=%s] .mark").textContent === %q`, host, mark))
	}
	before := b.eval(`document.querySelector("[data-host=web-01] .nums b").textContent`)
	b.until(fmt.Sprintf(`document.querySelector("[data-host=web-01] .nums b").textContent !== %q`, before))

	source.host("web-01", func(h *fleet.Host) { h.State = control.StateDraining })
	b.until(`document.querySelector("[data-host=web-01] .host").classList.contains("draining")`)
	source.change(func() { source.hosts = source.hosts[1:] })
	b.until(`document.querySelectorAll("#grid > li[data-host]").length === 9`)
	source.happen("web-02", "roll_done", "", "")
	b.until(`document.querySelector("#events li b").textContent === "roll done"`)
	if wrong := b.complaints(); len(wrong) > 0 {
		t.Errorf("the console says: %s", strings.Join(wrong, "\n"))
	}
}

// Pictures of the page for people to look at: 10 and 1,000 hosts, dark and light, and on
// a telephone.
func TestPagePictures(t *testing.T) {
	urls := map[int]string{}
	for _, hosts := range []int{10, 150, 1000} {
		l := standard()
		if l.period *= 2; hosts == 10 { // with a past soon; a busy browser can't follow a thousand so often
			l.period, l.sample = 100*time.Millisecond, 1
		}
		urls[hosts] = serveWithin(t, config(lively(hosts)), l)
	}
	b := startBrowser(t)
	for _, hosts := range []int{10, 150, 1000} {
		url := urls[hosts]
		for _, scheme := range []string{"light", "dark"} {
			b.screen(1440, 960, scheme)
			b.open(url)
			b.until(fmt.Sprintf(`document.querySelectorAll("#grid > li[data-host]").length === %d`, hosts))
			b.until(`document.querySelectorAll("#events li").length === 6`)
			if hosts == 10 {
				b.until(`document.querySelector("#chart .line").getAttribute("d").split("L").length > 61`) // with a past
			}
			b.shot(fmt.Sprintf("%d-%s", hosts, scheme))
		}
		b.screen(375, 812, "light")
		b.until(`document.documentElement.scrollWidth <= 375`)
		b.shot(fmt.Sprintf("%d-telephone", hosts))
	}
	b.screen(1440, 960, "light")
	b.eval(`document.querySelector("[data-host=web-0002] button").click()`)
	b.until(`document.querySelectorAll("#details-workers tr").length === 9`)
	b.shot("details")
	b.press("Escape")
	b.press("?")
	b.until(`document.querySelector("#help").open`)
	b.shot("help")
	if wrong := b.complaints(); len(wrong) > 0 {
		t.Errorf("the console says: %s", strings.Join(wrong, "\n"))
	}
}

// Names that are markup, scripts or trouble are text.
func TestPageHostileNames(t *testing.T) {
	source := newSynthetic(3, 2)
	const evil = `<img src=x onerror="document.title='evil'"><script>document.title='evil'</script>` + "\u202e\n&quot;"
	source.change(func() {
		source.hosts[0].ID, source.hosts[0].Problem = evil, evil
		source.hosts[1].ID, source.hosts[1].Version, source.hosts[1].Addresses = "__proto__", evil, []string{evil}
		source.hosts[1].Workers[0].State = evil
		source.hosts[2].ID, source.hosts[2].State = "constructor", "toString"
	})
	source.happen(evil, evil, evil, evil)
	b := startBrowser(t)
	b.screen(1440, 960, "light")
	b.open(serve(t, config(source)))
	b.until(`document.querySelectorAll("#grid > li[data-host]").length === 3`)
	b.until(`document.querySelectorAll("#events li").length === 1`)
	for _, id := range []string{"constructor", "__proto__", evil} {
		b.eval(fmt.Sprintf(`[...document.querySelectorAll("#grid > li")].find((li) => li.dataset.host === %q).querySelector("button").click()`, id))
		b.until(fmt.Sprintf(`document.querySelector("#details-name").textContent === %q && document.querySelectorAll("#details-workers tr").length === 2`, id))
		b.press("Escape")
		b.until(`!document.querySelector("#details").open`)
	}
	if made := b.eval(`document.querySelectorAll("img, body script, [onerror]").length`); made != 0.0 {
		t.Errorf("%v elements have been made by names", made)
	}
	if title := b.eval(`document.title`); title != "shop, forkd fleet" {
		t.Errorf("the title is %q", title)
	}
	if wrong := b.complaints(); len(wrong) > 0 {
		t.Errorf("the console says: %s", strings.Join(wrong, "\n"))
	}
}

// All of it by keyboard: filter, go to a host, open it, give the token, drain, see that
// it is done, resume.
func TestPageCommandsByKeyboard(t *testing.T) {
	source := newSynthetic(12, 2)
	c := config(source)
	c.Token = token
	b := startBrowser(t)
	b.screen(1440, 960, "dark")
	b.open(serve(t, c))
	b.until(`document.querySelectorAll("#grid > li[data-host]").length === 12`)
	b.press("/")
	b.until(`document.activeElement.id === "filter"`)
	b.write("web-1")
	b.until(`document.querySelectorAll("#grid > li[data-host]").length === 3`)
	b.press("Enter")
	b.until(`document.activeElement.closest("li")?.dataset.host === "web-10"`)
	b.press("ArrowRight")
	b.until(`document.activeElement.closest("li")?.dataset.host === "web-11"`)
	b.press("End")
	b.until(`document.activeElement.closest("li")?.dataset.host === "web-12"`)
	b.press("Home")
	b.press("Tab")
	b.until(`document.activeElement.closest("li")?.dataset.host === "web-11"`)
	b.press("Enter")
	b.until(`document.querySelector("#details").open && !document.querySelector("#drain").disabled`)

	b.eval(`document.querySelector("#drain").focus()`)
	b.press("Enter")
	b.until(`document.querySelector("#result").textContent === "drain: type the token first" && document.activeElement.id === "token"`)
	b.write("wrong")
	b.eval(`document.querySelector("#drain").focus()`)
	b.press("Enter")
	b.until(`document.querySelector("#result").textContent === "drain: the token is wrong"`)
	for _, text := range b.complaints() {
		if !strings.Contains(text, "401") { // the browser notes the answer itself
			t.Errorf("the console says: %s", text)
		}
	}
	b.eval(`document.querySelector("#token").select(), document.querySelector("#token").focus()`)
	b.write(token)
	b.eval(`document.querySelector("#drain").focus()`)
	b.press("Enter")
	b.until(`/drain on web-11: draining, by a command$/.test(document.querySelector("#result").textContent)`)
	b.shot("drained")
	b.eval(`document.querySelector("#resume").focus()`)
	b.press("Enter")
	b.until(`/resume on web-11: resumed$/.test(document.querySelector("#result").textContent)`)
	if stored := b.eval(`localStorage.length + sessionStorage.length + document.cookie.length`); stored != 0.0 {
		t.Error("something is stored")
	}
	b.press("Escape")
	b.until(`!document.querySelector("#details").open && document.activeElement.closest("li")?.dataset.host === "web-11"`)
	b.press("?")
	b.until(`document.querySelector("#help").open`)
	b.press("Escape")
	b.press("/")
	b.press("Escape")
	b.until(`document.querySelectorAll("#grid > li[data-host]").length === 12`)
	if wrong := b.complaints(); len(wrong) > 0 {
		t.Errorf("the console says: %s", strings.Join(wrong, "\n"))
	}
}

// The page says that its data are old, when Redis or the server is away, and comes back
// by itself. Without a token it offers no commands.
func TestPageAway(t *testing.T) {
	source := newSynthetic(3, 2)
	address := fmt.Sprintf("127.0.0.1:%d", ports.Free(t, 1)) // twice
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	l := standard()
	l.period = 200 * time.Millisecond
	run := func(ln net.Listener) (stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- newServer(config(source), l).serve(ctx, ln) }()
		return func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}
	stop := run(ln)
	b := startBrowser(t)
	b.screen(1440, 960, "light")
	b.open("http://" + address + "/")
	live := `document.querySelector("#link").dataset.state === "live" && document.querySelector("#alarm").hidden`
	b.until(live)
	source.change(func() { source.err = fmt.Errorf("connection refused") })
	b.until(`/^Redis can't be read: connection refused\. What is shown is \d+ s old.$/.test(document.querySelector("#alarm").textContent)`)
	b.shot("old")
	source.change(func() { source.err = nil })
	b.until(live)
	// Not before: what it still asks for of the host would be answered 503, as it should.
	b.eval(`document.querySelector("#grid button").click()`)
	b.until(`document.querySelectorAll("#details-workers tr").length === 2`)
	if hidden := b.eval(`document.querySelector("#actions").hidden`); hidden != true {
		t.Error("a read-only server's page offers commands")
	}
	b.press("Escape")
	if wrong := b.complaints(); len(wrong) > 0 {
		t.Errorf("the console says: %s", strings.Join(wrong, "\n"))
	}
	stop()
	b.until(`/^The server is not reached/.test(document.querySelector("#alarm").textContent) && document.body.classList.contains("old")`)
	if ln, err = net.Listen("tcp", address); err != nil {
		t.Fatal(err)
	}
	defer run(ln)()
	b.until(live)
}

// A stranger's name that leads here shows nothing.
func TestPageRebound(t *testing.T) {
	url := serve(t, config(newSynthetic(3, 2)))
	b := startBrowser(t)
	b.open(strings.Replace(url, "127.0.0.1", "stranger.example", 1))
	b.until(`/this server is not called/.test(document.body.innerText)`)
	if status := b.eval(`fetch("v1/fleet").then((answer) => answer.status)`); status != 421.0 {
		t.Errorf("its scripts get %v", status)
	}
}
