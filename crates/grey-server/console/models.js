// The models: a card for each version, made once and then kept up to date.

import { copyButton, el, fill, text } from "./dom.js";
import * as format from "./format.js";
import { figure, quantile, since, total } from "./histogram.js";

/** Cards that are open from the start; beyond that they start closed. */
const OPEN_MAX = 3;

export const keyOf = (m) => `${m.id}/${m.version}`;

export const pathOf = (m) =>
  `/grey/v1/models/${encodeURIComponent(m.id)}/versions/${encodeURIComponent(m.version)}`;

function batching(m) {
  const b = m.batching;
  // What is not loaded has no reason of its own yet.
  if (m.threads === null) return [`up to ${b.max_batch_size} rows in a run, if rows do not mix`, b.reason];
  if (!b.enabled) return ["one request at a time", b.reason];
  const held = b.hold === "fill" ? `, held back up to ${b.max_wait_ms} ms to fill` : "";
  return [`up to ${b.max_batch_size} rows in a run${held}`, b.reason];
}

function proofs(m) {
  const p = m.proofs;
  if (!p.on) return ["off", p.reason];
  const what = p.class ? `class ${p.class}` : p.precision ? "refused" : "on";
  return [`${what}${p.alone ? ", a proven request runs alone" : ""}`, p.reason];
}

/** One version. `act(verb, model)` is what the buttons call; null where the page may change nothing. */
function card(m, open, act) {
  const state = el("span", { class: "badge" });
  const labels = el("span", { class: "labels" });
  const line = el("span", { class: "numbers quiet" });
  const reason = el("p", { class: "bad-text", hidden: true });
  const facts = {};
  const fact = (name, title) => {
    facts[name] = el("dd", {});
    return el("div", {}, el("dt", {}, title), facts[name]);
  };
  const list = el("dl", { class: "facts" },
    fact("hash", "Model hash"), fact("engine", "Engine"), fact("batching", "Batching"),
    fact("proofs", "Proofs"), fact("queue", "Queue"), fact("requests", "Requests"));
  const hash = el("code", { class: "hash" });
  fill(facts.hash, hash, " ", copyButton(() => hash.textContent));
  const pairs = {};
  for (const name of ["batching", "proofs"]) {
    pairs[name] = [el("span", {}), el("span", { class: "quiet" })];
    fill(facts[name], pairs[name][0], el("br"), pairs[name][1]);
  }
  const meter = el("meter", { min: 0, "aria-label": "rows waiting" });
  const waiting = el("span", {});
  fill(facts.queue, waiting, " ", meter);
  const latency = figure("Latency", format.seconds);
  const queued = figure("Time in the queue", format.seconds);
  const rows = figure("Batch size", (n) => format.count(n));
  const figures = el("div", { class: "figures" }, latency.node, queued.node, rows.node);
  const hosts = el("tbody", {});
  const table = el("table", { class: "hosts" },
    el("caption", {}, "Hosts"),
    el("thead", {}, el("tr", {}, ["PID", "Runtime", "Memory", "Of it private", "CPU"].map((h) => el("th", { scope: "col" }, h)))),
    hosts);
  const none = el("p", { class: "quiet" }, "No host runs.");
  const restarts = el("p", { class: "quiet" });

  const buttons = {};
  const actions = act === null ? null : el("div", { class: "row actions" }, ["load", "unload", "remove"].map((verb) => {
    buttons[verb] = el("button", {
      type: "button",
      class: verb === "remove" ? "small danger" : "small",
      "aria-label": `${verb} ${m.id} version ${m.version}`,
      click: () => act(verb, m),
    }, verb === "remove" ? "Remove…" : verb[0].toUpperCase() + verb.slice(1));
    return buttons[verb];
  }));

  const node = el("details", { class: "card model", open, "data-model": keyOf(m) },
    el("summary", {}, el("h3", {}, m.id, " ", el("span", { class: "quiet" }, "version ", m.version)), state, labels, line),
    reason, list, figures,
    el("div", { class: "wide" }, table), none, restarts, actions);

  const update = (now, then, elapsed) => {
    text(state, now.state);
    state.className = `badge ${{ ready: "good", failed: "bad", loading: "warn" }[now.state] ?? "plain"}`;
    if (labels.dataset.said !== now.labels.join()) {
      labels.dataset.said = now.labels.join();
      fill(labels, now.labels.map((l) => el("span", { class: "badge plain" }, l)));
    }
    text(reason, now.reason);
    reason.hidden = now.reason === "";
    const recent = since(now.latency_seconds, then?.latency_seconds);
    const perSecond = then && elapsed > 0 ? Math.max(0, now.answered - then.answered) / elapsed : 0;
    const p50 = quantile(recent, 0.5);
    text(line, now.state !== "ready" ? "" : p50 === null || !then ? `${format.rate(perSecond)} requests/s`
      : `${format.rate(perSecond)} requests/s · p50 ${format.seconds(p50)} · p99 ${format.seconds(quantile(recent, 0.99))}`);
    text(hash, `${now.model_hash_scheme}:${now.model_hash}`);
    text(facts.engine, now.threads === null ? now.engine
      : `${now.hosts[0]?.runtime ?? now.engine}, ${format.plural(now.threads, "thread", "threads")} per run`);
    for (const [name, of] of [["batching", batching], ["proofs", proofs]]) {
      const [what, why] = of(now);
      text(pairs[name][0], what);
      text(pairs[name][1], why);
    }
    meter.max = Math.max(1, now.queue.rows_max);
    meter.value = now.queue.rows;
    meter.hidden = now.queue.rows === 0;
    text(waiting, now.queue.rows === 0 ? "empty"
      : `${format.plural(now.queue.rows, "row waits", "rows wait")}, the oldest for ${format.seconds(now.queue.oldest_wait_ms / 1000)}`);
    text(facts.requests, `${format.count(now.answered)} answered, ${format.count(now.failed)} failed; ` +
      `${format.plural(now.rows, "row", "rows")} in ${format.plural(now.runs, "run", "runs")}`);
    const all = now.latency_seconds;
    figures.hidden = all.count === 0 && now.batch_rows.count === 0;
    const of = (h) => (h.count === 0 ? "nothing yet"
      : `p50 ${format.seconds(quantile(h, 0.5))}, p99 ${format.seconds(quantile(h, 0.99))} of ${total(h, "request", "requests")}`);
    latency.update(all, of(all));
    queued.update(now.queue_seconds, of(now.queue_seconds));
    const sizes = now.batch_rows;
    rows.update(sizes, sizes.count === 0 ? "nothing yet"
      : `${(sizes.sum / sizes.count).toFixed(1)} rows on average, ${total(sizes, "run", "runs")}`);
    fill(hosts, now.hosts.map((h) => {
      const before = then?.hosts.find((b) => b.pid === h.pid)?.usage;
      const cpu = h.usage && before && elapsed > 0 ? `${Math.round((h.usage.cpu_ms - before.cpu_ms) / elapsed / 10)} %` : "–";
      return el("tr", {}, el("td", {}, h.pid ?? "in the node"), el("td", {}, h.runtime),
        el("td", {}, h.usage ? format.bytes(h.usage.rss_bytes) : "–"),
        el("td", {}, h.usage ? format.bytes(h.usage.anonymous_bytes) : "–"), el("td", {}, cpu));
    }));
    table.hidden = now.hosts.length === 0;
    none.hidden = now.hosts.length > 0;
    const harm = [];
    if (now.restarts > 0) harm.push(`${format.plural(now.restarts, "restart", "restarts")} of hosts`);
    if (now.quarantined > 0) harm.push(`${format.plural(now.quarantined, "request", "requests")} quarantined`);
    text(restarts, harm.join(", "));
    restarts.hidden = harm.length === 0;
    if (actions) {
      buttons.load.disabled = now.state === "ready" || now.state === "loading";
      buttons.unload.disabled = now.state !== "ready" && now.state !== "failed";
    }
  };
  return { node, update };
}

/** The list below `root`. */
export class Models {
  constructor(root, act) {
    this.root = root;
    this.act = act;
    this.cards = new Map();
    this.filter = "";
    this.writes = null;
  }

  update(status, before) {
    const writes = status.console === "write";
    if (writes !== this.writes) {
      this.cards.clear();
      this.writes = writes;
    }
    const elapsed = before ? (status.time_ms - before.time_ms) / 1000 : 0;
    const keys = status.models.map(keyOf);
    const same = keys.length === this.cards.size && keys.every((k) => this.cards.has(k));
    for (const known of [...this.cards.keys()]) {
      if (!keys.includes(known)) this.cards.delete(known);
    }
    for (const m of status.models) {
      const key = keyOf(m);
      if (!this.cards.has(key)) this.cards.set(key, card(m, status.models.length <= OPEN_MAX, writes ? this.act : null));
      this.cards.get(key).update(m, before?.models.find((b) => keyOf(b) === key), elapsed);
    }
    if (!same || this.root.dataset.drawn === undefined) {
      this.root.dataset.drawn = "";
      const none = el("p", { class: "quiet" }, "No models yet. Register one with ", el("code", {}, "grey model add NAME FILE"), ".");
      fill(this.root, keys.length === 0 ? none : keys.map((k) => this.cards.get(k).node));
    }
    this.show(this.filter);
  }

  show(filter) {
    this.filter = filter;
    const wanted = filter.trim().toLowerCase();
    for (const [key, { node }] of this.cards) node.hidden = !key.toLowerCase().includes(wanted);
  }
}
