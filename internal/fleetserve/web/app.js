// The page of `forkd fleet serve`: follows /events, and shows what comes. A "full" frame
// replaces everything, a "delta" what has changed.

import { Details } from "./details.js";
import { Grid, hostPoints, read } from "./hosts.js";
import { clock, draw, element, number, percent, plural, setText, short, span } from "./text.js";

const $ = (id) => document.getElementById(id);
const silentAfter = 7_000; // ms without a frame, until what is shown is called old
const mostEvents = 200;
const fleetPoints = 360;

const model = { head: null, hosts: new Map(), past: new Map(), history: null };
const details = new Details();
const grid = new Grid($("grid"), (id) => details.open(model, id));
let app = new URLSearchParams(location.search).get("app") ?? "";
let stream = null;
let heard = 0; // when the last frame came, by performance.now()
let tries = 0;
let retry = 0;

function connect() {
  clearTimeout(retry);
  stream?.close();
  heard = performance.now(); // it has as long as a frame may take
  stream = new EventSource(app ? `events?${new URLSearchParams({ app })}` : "events");
  stream.addEventListener("full", (e) => take(JSON.parse(e.data), true));
  stream.addEventListener("delta", (e) => take(JSON.parse(e.data), false));
  stream.addEventListener("error", reconnect);
}

// reconnect tries again, soon at first, then less often, and not all viewers at once.
function reconnect() {
  stream?.close();
  stream = null;
  clearTimeout(retry);
  retry = setTimeout(connect, Math.min(15_000, 500 * 2 ** tries++) * (0.5 + Math.random()));
  showLink();
}

function take(frame, full) {
  heard = performance.now();
  tries = 0;
  const { hosts, past, history, events, gone, ...head } = frame;
  const changed = full ? null : new Set(hosts.map((row) => row.id));
  if (full) {
    model.hosts.clear();
    model.past = new Map(Object.entries(past ?? {}));
    model.history = history ?? { every: 10, connections: [], capacity: [], hosts: [] };
    $("events").replaceChildren();
  }
  for (const id of gone ?? []) {
    model.hosts.delete(id);
    model.past.delete(id);
  }
  for (const row of hosts) model.hosts.set(row.id, read(row));
  model.head = head;
  if (!full && head.sampled) sample();
  showHead();
  showEvents(events ?? []);
  showGrid(head.sampled ? null : changed);
  showLink();
  details.refresh();
}

// sample adds a point to the histories, as the server has done.
function sample() {
  const { totals } = model.head;
  const add = (list, n, most) => [...(list ?? []), n ?? -1].slice(-most);
  const h = model.history;
  h.connections = add(h.connections, totals.connections, fleetPoints);
  h.capacity = add(h.capacity, totals.capacity, fleetPoints);
  h.hosts = add(h.hosts, totals.hosts - totals.vanished, fleetPoints);
  for (const row of model.hosts.values()) model.past.set(row.id, add(model.past.get(row.id), row.c, hostPoints));
}

function showHead() {
  const { head } = model;
  const { totals, sums, advice } = head;
  document.title = head.app ? `${head.app}, forkd fleet` : "forkd fleet";
  showApps(head);
  setText($("connections"), number(totals.connections));
  setText($("of"), totals.capacity == null ? "" : `of ${number(totals.capacity)}`);
  setText($("utilization"), percent(totals.utilization));
  $("utilization").className = totals.utilization > 100 ? "bad" : totals.utilization > head.limit ? "warn" : "";
  setText($("hosts"), number(totals.hosts - totals.vanished));
  setText($("workers"), `${number(totals.ready)} of ${number(totals.wanted)}`);
  $("workers").className = totals.ready < totals.wanted ? "warn" : "";
  setText($("queue"), number(sums.queue));
  $("queue").className = sums.queue > 0 ? "warn" : "";
  setText($("refused"), number(sums.refused));
  setText($("moved"), number(sums.moved));
  const h = model.history;
  const limit = totals.capacity == null ? null : (totals.capacity * head.limit) / 100;
  draw($("chart"), [...(h.connections ?? []), totals.connections ?? -1], fleetPoints + 1, limit);
  setText($("chart-from"), `${span(h.every * fleetPoints)} ago`);
  setText($("chart-key"), limit == null ? "" : `dashed: ${percent(head.limit)} of the capacity`);
  if (advice) showAdvice(advice);
}

function showApps({ apps, app: shown }) {
  const select = $("app");
  const names = apps ?? [];
  if (select.dataset.names !== JSON.stringify(names)) {
    select.dataset.names = JSON.stringify(names);
    select.replaceChildren(...names.map((name) => new Option(name, name)));
  }
  if (document.activeElement !== select) select.value = shown;
  select.hidden = names.length === 0;
}

function showAdvice(a) {
  $("advice").dataset.direction = a.direction ?? "";
  setText($("wanted"), number(a.hosts_wanted));
  setText($("wanted-text"), `${a.hosts_wanted === 1 ? "host" : "hosts"} wanted, ${number(a.hosts)} ${a.hosts === 1 ? "serves" : "serve"}${a.coming ? `, ${number(a.coming)} to come` : ""}`);
  setText($("reason"), a.reason ?? "");
  const some = (list) => (list.length > 6 ? `${list.slice(0, 6).join(", ")} and ${list.length - 6} more` : list.join(", "));
  const steps = a.add ? [`add ${plural(a.add, "host")}`] : [];
  for (const what of ["drain", "remove", "resume"]) if (a[what]?.length) steps.push(`${what} ${some(a[what])}`);
  if (a.shed?.length) steps.push(`shed ${some(a.shed.map((s) => `${number(s.count)} from ${s.host} in ${span(s.seconds)}`))}`);
  if (a.until) steps.push(`held back until ${clock(a.until)}`);
  const list = $("steps");
  while (list.childElementCount > steps.length) list.lastChild.remove();
  steps.forEach((text, i) => setText(list.children[i] ?? list.appendChild(element("li")), text));
}

const grave = new Set(["crashed", "failed", "rolled_back", "roll_failed", "replace_failed", "refused", "unreadable"]);
const notable = new Set(["stalled", "backoff", "overloaded", "draining"]);

function showEvents(events) {
  const list = $("events");
  for (const e of events) {
    details.note(e);
    const item = element("li");
    const at = element("time", "", clock(e.time));
    at.dateTime = e.time;
    at.title = new Date(e.time).toLocaleString();
    const what = element("span");
    const slot = e.slot == null ? "" : ` slot ${e.slot}`;
    what.append(element("b", grave.has(e.type) ? "bad" : notable.has(e.type) ? "warn" : "", e.type.replaceAll("_", " ")), ` ${e.host}${slot}`);
    item.append(at, what);
    if (e.reason) item.append(element("span", "why", e.reason));
    list.prepend(item);
  }
  while (list.childElementCount > mostEvents) list.lastChild.remove();
  setText($("no-event"), model.head.no_event ? `Events can't be read: ${model.head.no_event}` : "");
  $("no-event").hidden = !model.head.no_event;
}

function showGrid(changed) {
  if (!model.head) return;
  const { matching, shown } = grid.show(model, changed);
  const all = model.hosts.size;
  const parts = [];
  if (matching < all) parts.push(`${number(matching)} of ${plural(all, "host")} match`);
  if (shown < matching) parts.push(`the first ${number(shown)} are shown: filter to see others`);
  if (model.head.hidden) parts.push(`${number(model.head.hidden)} more hosts report than this page shows`);
  if (model.head.problem) parts.push(model.head.problem);
  setText($("shown"), parts.join("; "));
  let none = "";
  if (all === 0 && !model.head.error) none = model.head.apps?.length ? "No host reports this app." : "No app is reported to Redis yet.";
  else if (matching === 0 && all > 0) none = "No host matches.";
  let note = $("grid").querySelector(".none");
  if (none) (note ?? $("grid").appendChild((note = element("li", "none")))) && setText(note, none);
  else note?.remove();
  showStates();
}

// showStates shows how many hosts are in which state; a click filters by it.
function showStates() {
  const counts = new Map();
  for (const row of model.hosts.values()) for (const mark of row.marks) counts.set(mark, (counts.get(mark) ?? 0) + 1);
  const marks = ["ready", "starting", "rolling", "draining", "stopping", "stalled", "stale", "vanished", "problem", "twin", "unknown"].filter((mark) => counts.has(mark));
  const box = $("states");
  if (box.dataset.marks !== marks.join()) {
    box.dataset.marks = marks.join();
    box.replaceChildren(
      ...marks.map((mark) => {
        const button = element("button");
        button.type = "button";
        button.dataset.mark = mark;
        button.append(element("b"), ` ${mark}`);
        return button;
      }),
    );
  }
  for (const button of box.children) {
    setText(button.firstChild, short(counts.get(button.dataset.mark)));
    button.setAttribute("aria-pressed", String(grid.words.includes(button.dataset.mark)));
  }
}

// showLink says whether what is shown is what is there.
function showLink() {
  const { head } = model;
  const silence = performance.now() - heard;
  const cut = stream === null || silence > silentAfter;
  const error = head?.error;
  const old = cut || Boolean(error);
  const age = head?.age == null ? null : head.age + silence / 1000;
  $("link").dataset.state = head === null && !cut ? "connecting" : old ? "old" : "live";
  setText($("link-text"), head === null && !cut ? "Connecting" : old ? "Old data" : "Live");
  document.body.classList.toggle("old", old && head !== null);
  let text = "";
  if (cut) text = "The server is not reached: it is tried again.";
  else if (error) text = `Redis can't be read: ${error}.`;
  if (old && age != null) text += ` What is shown is ${span(age)} old.`;
  setText($("alarm"), text);
  $("alarm").hidden = !old;
}

setInterval(() => {
  if (stream !== null && performance.now() - heard > silentAfter) reconnect();
  else showLink();
}, 1000);

function filter(text) {
  grid.filter(text);
  grid.reorder = true;
  showGrid(new Set());
}

$("filter").addEventListener("input", (e) => filter(e.target.value));
$("states").addEventListener("click", (e) => {
  const mark = e.target.closest("button")?.dataset.mark;
  if (!mark) return;
  $("filter").value = grid.words.includes(mark) ? grid.words.filter((word) => word !== mark).join(" ") : [...grid.words, mark].join(" ");
  filter($("filter").value);
});
$("sort").addEventListener("change", (e) => {
  grid.order = e.target.value;
  grid.reorder = true;
  showGrid(new Set());
});
$("app").addEventListener("change", (e) => {
  app = e.target.value;
  history.replaceState(null, "", `?${new URLSearchParams({ app })}`);
  connect();
});
$("help-open").addEventListener("click", () => $("help").showModal());
$("help").addEventListener("click", (e) => {
  if (e.target === $("help")) $("help").close();
});
document.addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.altKey || e.metaKey || document.querySelector("dialog[open]")) return;
  if (e.target.matches("input, select")) {
    if (e.key === "Escape" && e.target === $("filter")) {
      e.target.value = "";
      filter("");
      e.target.blur();
    } else if (e.key === "Enter" && e.target === $("filter")) {
      e.preventDefault(); // or the host would be opened by the same stroke
      grid.node.querySelector("button")?.focus();
    }
    return;
  }
  if (e.key === "/") $("filter").focus();
  else if (e.key === "?") $("help").showModal();
  else return;
  e.preventDefault();
});

connect();
