// One host in full, and the commands for it.

import { hostPoints } from "./hosts.js";
import { bytes, clock, draw, element, number, percent, setText, span } from "./text.js";

const $ = (id) => document.getElementById(id);

export class Details {
  constructor() {
    this.dialog = $("details");
    this.host = null; // the id of the one that is shown
    this.waits = new Map(); // commands that are sent: id to what they are
    this.results = new Map(); // the latest events of commands, by id: one may come before its command's answer
    for (const op of ["drain", "resume", "shed"]) $(op).addEventListener("click", () => this.command(op));
    $("token-form").addEventListener("submit", (e) => e.preventDefault());
    this.dialog.addEventListener("close", () => {
      if (!this.dialog.open) this.host = null; // else it is open again already: the event comes late
    });
    this.dialog.addEventListener("click", (e) => {
      if (e.target === this.dialog) this.dialog.close(); // the backdrop
    });
  }

  open(model, id) {
    this.host = id;
    this.app = model.head.app;
    setText($("details-name"), id);
    for (const node of [$("details-state"), $("result")]) setText(node, "");
    for (const node of [$("details-facts"), $("details-workers")]) node.replaceChildren();
    draw($("details-chart"), [], hostPoints);
    $("actions").hidden = !model.head.commands;
    this.dialog.showModal();
    this.refresh();
  }

  // refresh reads the host again, while it is shown.
  async refresh() {
    const id = this.host;
    if (id === null || this.asking) return;
    this.asking = true;
    try {
      const answer = await fetch(`host?${new URLSearchParams({ app: this.app, host: id })}`, { signal: AbortSignal.timeout(10_000) });
      const body = await answer.json();
      if (this.host !== id) return;
      if (answer.ok) this.show(body.host, body.history);
      else setText($("details-state"), body.error);
    } catch {
      if (this.host === id) setText($("details-state"), "The server does not answer.");
    } finally {
      this.asking = false;
    }
    if (this.host !== null && this.host !== id) this.refresh();
  }

  show(h, history) {
    const state = h.vanished ? "vanished" : h.stale ? "stale" : h.state || "state not known";
    const parts = [state];
    if (h.age != null) parts.push(`reported ${span(h.age)} ago`);
    if (h.twin) parts.push("two masters report by this name: give each a redis.host_id of its own");
    if (h.problem) parts.push(h.problem);
    setText($("details-state"), parts.join(", "));
    draw($("details-chart"), [...(history.connections ?? []), h.connections ?? -1], hostPoints + 1, h.capacity);
    const facts = {
      Connections: number(h.connections), Capacity: number(h.capacity), Used: percent(h.utilization), Queue: number(h.queue),
      Workers: h.wanted == null ? "-" : `${number(h.ready)} of ${number(h.wanted)} ready`, Generation: number(h.generation),
      Accepted: number(h.accepted), Requests: number(h.requests), Refused: number(h.refused), Moved: number(h.moved),
      Restarts: number(h.restarts), CPU: percent(h.cpu_percent), Memory: bytes(h.rss_bytes), Version: h.version || "-",
      Started: h.started_at ? new Date(h.started_at).toLocaleString() : "-", Addresses: (h.addresses ?? []).join(", ") || "-",
    };
    const list = $("details-facts");
    if (list.childElementCount === 0) {
      for (const name of Object.keys(facts)) {
        const item = element("div");
        item.append(element("dt", "", name), element("dd"));
        list.append(item);
      }
    }
    Object.values(facts).forEach((text, i) => setText(list.children[i].lastChild, text));
    const rows = (h.workers ?? []).slice(0, 1000).map((w) => [
      number(w.slot), w.state + (w.stalled ? " (stalled)" : ""), number(w.generation), number(w.connections), number(w.queue),
      number(w.requests), percent(w.cpu_percent), bytes(w.rss_bytes), number(w.restarts), w.pid == null ? "-" : String(w.pid),
    ]);
    const body = $("details-workers");
    while (body.childElementCount > rows.length) body.lastChild.remove();
    rows.forEach((texts, i) => {
      const line = body.children[i] ?? body.appendChild(element("tr"));
      texts.forEach((text, k) => setText(line.children[k] ?? line.appendChild(element("td")), text));
    });
    for (const op of ["drain", "resume", "shed"]) $(op).disabled = !h.control || h.vanished;
    if (!$("actions").hidden && !h.control) setText($("result"), "This host takes no commands: set redis.control = true there.");
  }

  // command sends a command. The token stays in its field: nothing stores it.
  async command(op) {
    const token = $("token").value;
    if (token === "") {
      $("token").focus();
      return this.say(`${op}: type the token first`, true);
    }
    const host = this.host;
    const order = { app: this.app, host, op };
    if (op === "shed") Object.assign(order, { count: $("shed-count").valueAsNumber || 0, seconds: $("shed-seconds").valueAsNumber || 0 });
    this.say(`Sending ${op} to ${host}`);
    try {
      const answer = await fetch("command", {
        method: "POST",
        headers: { "Content-Type": "application/json", Authorization: `Bearer ${token}` },
        body: JSON.stringify(order),
        signal: AbortSignal.timeout(15_000),
      });
      const body = await answer.json();
      if (!answer.ok) return this.say(`${op}: ${body.error}`, true);
      this.waits.set(body.id, `${op} on ${host}`);
      this.say(`Sent ${op} to ${host}: it answers when it reports next`);
      if (this.results.has(body.id)) this.note(this.results.get(body.id));
      setTimeout(() => {
        if (this.waits.delete(body.id)) this.say(`${host} has not answered yet`, true);
      }, 30_000);
    } catch {
      this.say(`${op}: it is not known whether it was sent: the server does not answer`, true);
    }
  }

  // note looks whether an event is the result of a command.
  note(event) {
    if (!event.command) return;
    this.results.set(event.command, event);
    if (this.results.size > 100) this.results.delete(this.results.keys().next().value);
    const what = this.waits.get(event.command);
    if (!what) return;
    this.waits.delete(event.command);
    this.say(`${clock(event.time)} ${what}: ${event.type.replaceAll("_", " ")}${event.reason ? `, ${event.reason}` : ""}`, event.type === "refused");
  }

  say(text, wrong = false) {
    setText($("result"), text);
    $("result").className = wrong ? "bad" : "";
  }
}
