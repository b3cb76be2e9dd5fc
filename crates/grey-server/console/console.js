// The page: asks the node how it is, and shows it.

import { byId, copyButton, el, fill, text } from "./dom.js";
import * as format from "./format.js";
import { Infer } from "./infer.js";
import { Models, pathOf } from "./models.js";

const REFRESH_MS = 2000;
/** A node that takes longer is said to be silent. */
const PATIENCE_MS = 5000;
/** Rates are over this long. */
const WINDOW_MS = 10000;
/** Models from which on there is something to filter. */
const FILTER_FROM = 5;

const trouble = byId("trouble");
const history = [];

function complain(why) {
  text(trouble, why ?? "");
  trouble.hidden = !why;
}

function confirmed(model) {
  const dialog = byId("confirm");
  text(byId("confirm-text"), `${model.id} version ${model.version} and its files are removed from the registry for good.`);
  return new Promise((resolve) => {
    const close = (answer) => () => {
      dialog.close();
      resolve(answer);
    };
    byId("confirm-yes").onclick = close(true);
    byId("confirm-no").onclick = close(false);
    dialog.oncancel = () => resolve(false);
    dialog.showModal();
    byId("confirm-no").focus();
  });
}

async function act(verb, model) {
  if (verb === "remove" && !(await confirmed(model))) return;
  complain(null);
  try {
    const remove = verb === "remove";
    const response = await fetch(remove ? pathOf(model) : `${pathOf(model)}/${verb}`, { method: remove ? "DELETE" : "POST" });
    if (!response.ok) complain(`Cannot ${verb} ${model.id} version ${model.version}: ${(await response.json()).error}`);
  } catch (e) {
    complain(`Cannot ${verb} ${model.id} version ${model.version}: ${e.message}`);
  }
  await refresh();
}

const models = new Models(byId("models"), act);
const infer = new Infer(models);

/** A tile with a number, and a meter where there is a most. */
function tile(title) {
  const value = el("span", { class: "value" });
  const note = el("span", { class: "quiet" });
  const meter = el("meter", { min: 0, max: 1, hidden: true, "aria-label": title });
  const node = el("div", {}, el("dt", {}, title), el("dd", {}, value, meter, note));
  byId("node").append(node);
  return (shown, said, share) => {
    text(value, shown);
    text(note, said);
    meter.hidden = share === undefined;
    if (share !== undefined) meter.value = share;
  };
}

const tiles = {
  requests: tile("Requests"),
  memory: tile("Memory"),
  inflight: tile("Bytes in flight"),
  connections: tile("Connections"),
  cores: tile("Cores"),
};
const key = el("code", { class: "hash" });
const evidence = el("span", { class: "value" });
byId("node").append(el("div", { class: "span" }, el("dt", {}, "Evidence of proofs"),
  el("dd", {}, evidence, el("span", { class: "quiet" }, "node key ", key, " ", copyButton(() => key.textContent)))));

function node(now, before) {
  const sum = (of) => now.models.reduce((all, m) => all + of(m), 0);
  const elapsed = before ? (now.time_ms - before.time_ms) / 1000 : 0;
  const answered = sum((m) => m.answered);
  const then = before ? before.models.reduce((all, m) => all + m.answered, 0) : answered;
  tiles.requests(`${format.rate(elapsed > 0 ? Math.max(0, answered - then) / elapsed : 0)}/s`,
    `${format.count(answered)} answered, ${format.count(sum((m) => m.failed))} failed`);
  const hosts = sum((m) => m.hosts.reduce((all, h) => all + (h.usage?.rss_bytes ?? 0), 0));
  const own = now.usage?.rss_bytes ?? 0;
  tiles.memory(format.bytes(own + hosts), `node ${format.bytes(own)}, hosts ${format.bytes(hosts)}, of ${format.bytes(now.memory_bytes)}`,
    now.memory_bytes ? (own + hosts) / now.memory_bytes : undefined);
  tiles.inflight(format.bytes(now.inflight_bytes), `of ${format.bytes(now.inflight_bytes_max)}`, now.inflight_bytes / now.inflight_bytes_max);
  tiles.connections(format.count(now.connections), `of ${format.count(now.connections_max)}`, now.connections / now.connections_max);
  const cpu = now.usage && before?.usage && elapsed > 0 ? `the node uses ${Math.round((now.usage.cpu_ms - before.usage.cpu_ms) / elapsed / 10)} % of one` : "";
  tiles.cores(now.cores, cpu);
  text(evidence, now.proofs.platform === "SOFTWARE" ? "SOFTWARE: says who signs, and nothing of hardware" : now.proofs.platform);
  text(key, now.proofs.node_key);

  text(byId("node-name"), now.name);
  document.title = now.name === "grey" ? "Grey" : `${now.name} · Grey`;
  text(byId("version"), now.version);
  text(byId("node-line"), `grey ${now.version} · pid ${now.pid} · up ${format.duration(now.uptime_ms)}${now.console === "write" ? " · changes allowed" : ""}`);
  const health = byId("health");
  text(health, now.ready ? "ready" : now.reason);
  health.className = `badge ${now.ready ? "good" : "warn"}`;

  const warnings = [...now.warnings];
  byId("warnings").hidden = warnings.length === 0;
  if (byId("warning-list").dataset.said !== warnings.join("\n")) {
    byId("warning-list").dataset.said = warnings.join("\n");
    fill(byId("warning-list"), warnings.map((w) => el("li", {}, w)));
  }
}

async function refresh() {
  let now;
  try {
    const response = await fetch("/grey/v1/status", { signal: AbortSignal.timeout(PATIENCE_MS) });
    now = await response.json();
    if (!response.ok) throw new Error(now.error);
  } catch (e) {
    const health = byId("health");
    health.className = "badge bad";
    text(health, e.name === "TimeoutError" ? "the node is silent" : e instanceof TypeError ? "the node cannot be reached" : e.message);
    return;
  }
  // The node was started anew: what was counted before is another's.
  if (history.length > 0 && history[0].started !== now.started) history.length = 0;
  while (history.length > 1 && now.time_ms - history[1].time_ms >= WINDOW_MS) history.shift();
  const before = history[0];
  history.push(now);
  node(now, before);
  models.update(now, before);
  byId("filter-label").hidden = now.models.length < FILTER_FROM;
  infer.update(now);
}

byId("filter").addEventListener("input", (event) => models.show(event.target.value));

async function forever() {
  for (;;) {
    if (!document.hidden) await refresh();
    await new Promise((resolve) => { setTimeout(resolve, REFRESH_MS); });
  }
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) refresh();
});
forever();
