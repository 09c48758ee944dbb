// The grid of hosts: a tile for each, large, medium or small by how many there are. Only
// what has changed is written.

import { draw, element, number, percent, plural, setText, short } from "./text.js";

const mostTiles = 2000;
const mostCells = { large: 64, medium: 24, small: 12 };
export const hostPoints = 60; // of a host's history

const workerStates = ["starting", "ready", "draining", "backoff", "exited", "failed", "unknown"];
const stalledFlag = 16;

// What a row of a frame says (frame.go): id, s state, p problem, f flags, c connections, k
// capacity, q queue, g generation, r ready, n wanted, m moved, x refused, w workers.
export const is = {
  stale: (row) => (row.f & 1) !== 0,
  vanished: (row) => (row.f & 2) !== 0,
  twin: (row) => (row.f & 4) !== 0,
  control: (row) => (row.f & 8) !== 0,
};

export const used = (row) => (row.k > 0 && row.c != null ? (100 * row.c) / row.k : null);

// read adds to a row what follows from it.
export function read(row) {
  row.workers = [];
  for (let i = 0; i + 4 < row.w.length; i += 5) {
    const [slot, code, generation, connections, queue] = row.w.slice(i, i + 5);
    row.workers.push({ slot, state: workerStates[code & 15] ?? "unknown", stalled: code >= stalledFlag, generation, connections, queue });
  }
  row.newest = Math.max(-1, ...row.workers.map((w) => w.generation));
  row.rolling = row.workers.some((w) => w.generation >= 0 && w.generation < row.newest);
  row.stalled = row.workers.filter((w) => w.stalled).length;
  row.state = is.vanished(row) ? "vanished" : row.p ? "problem" : is.stale(row) ? "stale" : (row.s ?? "unknown");
  row.marks = [row.state];
  if (is.twin(row)) row.marks.push("twin");
  if (row.stalled) row.marks.push("stalled");
  if (row.rolling && row.state !== "vanished") row.marks.push("rolling");
  return row;
}

// trouble orders hosts: what somebody should look at comes first.
function trouble(row) {
  const rank = { vanished: 0, problem: 1, stale: 3, unknown: 4, stopping: 5, draining: 6, starting: 7, ready: 9 };
  return row.stalled ? Math.min(2, rank[row.state] ?? 4) : row.rolling && row.state === "ready" ? 8 : (rank[row.state] ?? 4);
}

const names = new Intl.Collator("en", { numeric: true });
const byName = (a, b) => names.compare(a.id, b.id);
const most = (figure) => (a, b) => (figure(b) ?? -1) - (figure(a) ?? -1) || byName(a, b);
const orders = {
  name: byName,
  trouble: (a, b) => trouble(a) - trouble(b) || byName(a, b),
  connections: most((row) => row.c),
  used: most(used),
  queue: most((row) => row.q),
};

// prefixOf is what all names begin with: small tiles leave it out. It ends before a number.
function prefixOf(rows) {
  if (rows.length < 2) return "";
  let prefix = rows[0].id;
  for (const { id } of rows) while (!id.startsWith(prefix)) prefix = prefix.slice(0, -1);
  prefix = prefix.replace(/[\p{L}\p{N}]*$/u, "");
  return rows.some(({ id }) => id.length <= prefix.length) ? "" : prefix;
}

class Tile {
  constructor(id, size) {
    this.size = size;
    this.node = element("li");
    this.node.dataset.host = id;
    this.button = element("button", "host");
    this.button.type = "button";
    this.name = element("span", "name");
    this.mark = element("span", "mark");
    const top = element("span", "top");
    top.append(this.name);
    const gauge = element("span", "gauge");
    this.gauge = element("i");
    gauge.append(this.gauge, element("u"));
    this.cells = element("span", "cells");
    this.drawn = []; // of each cell, what it shows
    this.button.append(top);
    if (size !== "small") {
      top.append(this.mark);
      const nums = element("span", "nums");
      this.connections = element("b");
      this.of = element("span");
      this.share = element("span", "share");
      nums.append(this.connections, this.of, this.share);
      this.button.append(nums);
    }
    this.button.append(gauge, this.cells);
    if (size === "large") {
      this.spark = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      for (const [name, value] of [["class", "spark"], ["viewBox", "0 0 360 100"], ["preserveAspectRatio", "none"], ["aria-hidden", "true"]]) this.spark.setAttribute(name, value);
      for (const name of ["area", "line"]) {
        const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
        path.setAttribute("class", name);
        this.spark.append(path);
      }
      const foot = element("span", "foot");
      this.generation = element("span");
      this.queue = element("span");
      foot.append(this.generation, this.queue);
      this.button.append(this.spark, foot);
    }
    this.node.append(this.button);
  }

  // show writes what has changed. past is the host's history, for a large tile.
  show(row, { limit, prefix, past }) {
    const share = used(row);
    const classes = ["host", ...row.marks];
    if (share > 100) classes.push("full");
    else if (share > limit) classes.push("over");
    this.set("classes", classes.join(" "), (text) => (this.button.className = text));
    setText(this.name, this.size === "small" ? row.id.slice(prefix.length) : row.id);
    const stalled = row.stalled ? `${row.stalled} stalled` : "";
    const mark = row.state !== "ready" ? row.state : is.twin(row) ? "twin" : stalled || (row.rolling ? "rolling" : "");
    const grave = row.state === "vanished" || row.state === "problem";
    if (this.size !== "small") {
      setText(this.mark, mark);
      this.set("mark", grave ? "mark bad" : mark && mark !== "rolling" && mark !== "starting" ? "mark warn" : "mark", (text) => (this.mark.className = text));
      setText(this.connections, this.size === "large" ? number(row.c) : short(row.c));
      setText(this.of, row.k > 0 ? `of ${this.size === "large" ? number(row.k) : short(row.k)}` : "connections");
      setText(this.share, share == null ? "" : percent(share));
    }
    this.set("gauge", Math.min(1, (share ?? 0) / 100).toFixed(3), (v) => this.gauge.style.setProperty("--v", v));
    this.showCells(row);
    if (this.size === "large") {
      draw(this.spark, [...past, row.c ?? -1], hostPoints + 1, null, row.k ?? 0);
      setText(this.generation, row.g == null ? "" : `generation ${row.g}${row.m ? `, ${short(row.m)} moved` : ""}`);
      setText(this.queue, row.q > 0 ? `queue ${short(row.q)}` : "");
    }
    const workers = row.n == null ? "" : `, ${row.r ?? 0} of ${plural(row.n, "worker")} ready`;
    const connections = row.c == null ? "connections not known" : `${number(row.c)}${row.k > 0 ? ` of ${number(row.k)}` : ""} connections`;
    const label = `${row.id}, ${row.marks.join(", ")}, ${connections}${workers}`;
    this.set("label", label, (text) => {
      this.button.setAttribute("aria-label", text);
      this.button.title = row.p || text;
    });
  }

  showCells(row) {
    const cells = row.workers.slice(0, mostCells[this.size]);
    const hidden = row.workers.length - cells.length + (row.more ?? 0);
    const room = row.k > 0 && row.n > 0 ? row.k / row.n : Math.max(1, ...row.workers.map((w) => w.connections));
    for (let i = cells.length; i < this.drawn.length; i++) this.drawn[i].node.remove();
    this.drawn.length = Math.min(this.drawn.length, cells.length);
    cells.forEach((w, i) => {
      let cell = this.drawn[i];
      if (!cell) {
        cell = this.drawn[i] = { node: element("i"), look: "", fill: "" };
        this.cells.insertBefore(cell.node, this.rest ?? null);
      }
      const old = w.state === "ready" && w.generation >= 0 && w.generation < row.newest;
      const look = `cell c-${w.stalled ? "stalled" : old ? "old" : w.state}`;
      const fill = w.connections > 0 ? Math.min(1, Math.max(0.08, w.connections / room)).toFixed(2) : "0";
      if (cell.look !== look) cell.node.className = cell.look = look;
      if (cell.fill !== fill) cell.node.style.setProperty("--v", (cell.fill = fill));
    });
    if (this.size !== "large") return;
    if (hidden > 0 && !this.rest) this.cells.append((this.rest = element("span", "more")));
    if (this.rest) setText(this.rest, hidden > 0 ? `+${hidden}` : "");
  }

  // set calls write if a value is another than the last time.
  set(what, value, write) {
    this.last ??= {};
    if (this.last[what] === value) return;
    this.last[what] = value;
    write(value);
  }
}

export class Grid {
  constructor(node, open) {
    this.node = node;
    this.tiles = new Map();
    this.words = [];
    this.order = "name";
    node.addEventListener("click", (e) => {
      const host = e.target.closest("li[data-host]");
      if (host) open(host.dataset.host);
    });
    node.addEventListener("keydown", (e) => this.arrow(e));
  }

  filter(text) {
    this.words = text.toLowerCase().split(/\s+/).filter(Boolean);
  }

  matches(row) {
    return this.words.every((word) => row.marks.includes(word) || row.id.toLowerCase().includes(word));
  }

  // show shows the hosts of a model; changed has the ids of those that are new or
  // different, null for all. It returns how many match the filter, and are shown.
  show(model, changed) {
    let rows = [...model.hosts.values()].filter((row) => this.matches(row)).sort(orders[this.order]);
    const matching = rows.length;
    rows = rows.slice(0, mostTiles);
    const size = rows.length <= 60 ? "large" : rows.length <= 240 ? "medium" : "small";
    const prefix = size === "small" ? prefixOf(rows) : "";
    if (size !== this.node.dataset.size || prefix !== this.prefix) changed = null;
    if (size !== this.node.dataset.size) {
      const focused = document.activeElement?.closest?.("#grid li")?.dataset.host;
      this.node.replaceChildren();
      this.tiles.clear();
      this.node.dataset.size = size;
      this.refocus = focused;
    }
    this.prefix = prefix;
    if (this.limit !== model.head.limit) {
      this.limit = model.head.limit;
      this.node.style.setProperty("--limit", `${Math.min(100, this.limit)}%`);
      changed = null;
    }
    const wanted = new Set(rows.map((row) => row.id));
    for (const [id, tile] of this.tiles) {
      if (!wanted.has(id)) {
        tile.node.remove();
        this.tiles.delete(id);
      }
    }
    for (const row of rows) {
      let tile = this.tiles.get(row.id);
      if (tile && changed && !changed.has(row.id)) continue;
      if (!tile) {
        tile = new Tile(row.id, size);
        this.tiles.set(row.id, tile);
      }
      tile.show(row, { limit: model.head.limit, prefix, past: model.past.get(row.id) ?? [] });
    }
    this.arrange(rows);
    if (this.refocus) this.tiles.get(this.refocus)?.button.focus();
    this.refocus = null;
    return { matching, shown: rows.length };
  }

  // arrange puts the tiles in order. Those that are there stay in their places while
  // somebody points at one or has come to one by keyboard, unless names order them.
  arrange(rows) {
    const busy = this.order !== "name" && (this.node.matches(":hover") || this.node.contains(document.activeElement)) && !this.reorder;
    this.reorder = false;
    let at = this.node.firstElementChild;
    for (const row of rows) {
      const { node } = this.tiles.get(row.id);
      if (node === at) at = at.nextElementSibling;
      else if (!busy || !node.parentNode) this.node.insertBefore(node, at);
    }
  }

  // arrow moves the focus among the tiles as they lie.
  arrow(e) {
    const from = e.target.closest("li[data-host]");
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns(), ArrowDown: this.columns(), Home: -Infinity, End: Infinity }[e.key];
    if (!from || step === undefined || e.ctrlKey || e.altKey || e.metaKey) return;
    const all = [...this.node.children];
    const i = all.indexOf(from);
    const to = Number.isFinite(step) ? i + step : step < 0 ? 0 : all.length - 1;
    if (to < 0 || to >= all.length) return;
    e.preventDefault();
    all[to].querySelector("button").focus();
  }

  columns() {
    return getComputedStyle(this.node).gridTemplateColumns.split(" ").length;
  }
}
