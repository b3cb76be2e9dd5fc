// The form that runs an inference, and what it shows of the proof.

import { byId, copyButton, el, fill } from "./dom.js";
import * as format from "./format.js";
import { keyOf, pathOf } from "./models.js";

/** Most elements of an example: more would be no use to read or change. */
const EXAMPLE_ELEMENTS_MAX = 65536;
/** What is shown of each output; all of it is in the answer's file. */
const LINES_MAX = 20;
const ELEMENTS_MAX = 32;
const NONCE_BYTES = 32;

const INTEGERS = /^U?INT(8|16|32|64)$/;

/** The shape of one small request: a dimension that may vary is 1. */
const shapeOf = (spec) => spec.shape.map((d) => (typeof d === "number" ? d : 1));

function dataOf(spec, elements) {
  const one = spec.datatype === "BYTES" ? () => '"text"'
    : spec.datatype === "BOOL" ? () => "false"
      : INTEGERS.test(spec.datatype) ? () => "0" : (i) => `0.${(i % 9) + 1}`;
  return Array.from({ length: elements }, (_, i) => one(i)).join(", ");
}

/** The text of a request that fits the signature. */
export function example(signature) {
  const inputs = signature.inputs.map((spec) => {
    const shape = shapeOf(spec);
    const elements = shape.reduce((a, b) => a * b, 1);
    const data = elements <= EXAMPLE_ELEMENTS_MAX ? dataOf(spec, elements) : "";
    return `    {"name": ${JSON.stringify(spec.name)}, "datatype": "${spec.datatype}", "shape": [${shape.join(", ")}],\n` +
      `     "data": [${data}]}`;
  });
  return `{\n  "inputs": [\n${inputs.join(",\n")}\n  ]\n}`;
}

async function said(response) {
  const body = await response.text();
  try {
    return JSON.parse(body).error ?? body;
  } catch {
    return body || `the node answered ${response.status}`;
  }
}

const base64 = (raw) => btoa(String.fromCharCode(...raw));

function unbase64(encoded) {
  return Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0));
}

/**
 * The request's text with a wish for a proof. Text, since numbers that pass through this page's own would
 * lose digits, and the hash of the inputs with them.
 */
function proving(body, parsed) {
  if ("parameters" in parsed || Object.keys(parsed).length === 0) {
    // The author's own parameters stand; the header asks.
    const own = parsed.parameters ?? {};
    return { body, headers: { "Grey-Prove": "1" }, nonce: own.grey_nonce, salt: own.grey_salt };
  }
  const nonce = base64(crypto.getRandomValues(new Uint8Array(NONCE_BYTES)));
  const asked = JSON.stringify({ grey_prove: true, grey_nonce: nonce });
  return { body: body.replace("{", () => `{"parameters": ${asked},`), headers: {}, nonce };
}

function download(name, content, type) {
  const url = URL.createObjectURL(new Blob([content], { type }));
  return el("a", { href: url, download: name }, name);
}

const SIGNS = { pass: "✓", fail: "✗", skipped: "–", "not applicable": "·" };

function checks(verdict) {
  return el("div", { class: "wide" }, el("table", { class: "checks" },
    el("caption", {}, `All ${verdict.checks.length} checks`),
    el("thead", {}, el("tr", {}, ["Check", "Result", "Expected", "Found"].map((h) => el("th", { scope: "col" }, h)))),
    el("tbody", {}, verdict.checks.map((c) => el("tr", { class: c.result.replace(" ", "-") },
      el("th", { scope: "row" }, c.name),
      el("td", { class: "result" }, el("span", { "aria-hidden": "true" }, SIGNS[c.result] ?? "?"), ` ${c.result}`),
      el("td", { "data-label": c.expected && "expected" }, c.expected), el("td", { "data-label": c.found && "found" }, c.found))))));
}

/** The command that checks all this without the node, and the files that it names. */
function elsewhere(sent, answer, known, verdict) {
  const view = verdict.view ?? {};
  const name = `${answer.parsed.model_name}-${answer.parsed.model_version}-${String(view.task_id ?? "").slice(-8) || "proof"}`;
  const files = { proof: `${name}.proof`, request: `${name}.request.json`, answer: `${name}.answer.json` };
  const key = verdict.policy.software_keys?.[0];
  const words = ["grey proof verify", files.proof];
  words.push(key ? `--software-key ${key}` : `--expected-measurement ${verdict.policy.expected_measurement}`);
  words.push(`--input ${files.request}`, `--output ${files.answer}`, `--model-hash ${known.model_hash}`);
  if (known.nonce) words.push(`--nonce ${known.nonce}`);
  if (known.session_nonce) words.push(`--session-nonce ${known.session_nonce}`);
  if (known.salt) words.push(`--salt ${known.salt}`);
  const command = words.join(" ");
  return el("div", { class: "elsewhere" },
    el("h4", {}, "Check it yourself, offline"),
    el("p", {}, "This verdict is the node's own word. Save these three files and run the line beside them, on a machine that you trust:"),
    el("ul", { class: "downloads" },
      el("li", {}, download(files.proof, unbase64(verdict.bundle), "application/cbor"), " the proof"),
      el("li", {}, download(files.request, sent, "application/json"), " the request as it was sent"),
      el("li", {}, download(files.answer, answer.text, "application/json"), " the answer as it came")),
    el("div", { class: "command" }, el("pre", {}, el("code", { id: "verify-command" }, command)), copyButton(() => command, "Copy the line")),
    el("p", { class: "quiet" }, key ? "The key after --software-key is what this node says of itself: have it from somebody whom you trust."
      : "The measurement is what this node says of itself: have it from somebody whom you trust."));
}

/** The same JSON with every number as the text that it was: large integers would lose digits here. */
function withDigits(json) {
  return JSON.parse(json, (_, value, context) => {
    if (typeof value === "number") return context?.source ?? String(value);
    return typeof value === "string" ? JSON.stringify(value) : value;
  });
}

/** The elements, a line for each of the last dimension. */
function lines(data, row) {
  const made = [];
  for (let at = 0; at < data.length && made.length < LINES_MAX; at += row) {
    const more = Math.min(row, data.length - at) - ELEMENTS_MAX;
    made.push(data.slice(at, at + Math.min(row, ELEMENTS_MAX)).join(", ") + (more > 0 ? `, … ${more} more` : ""));
  }
  const left = Math.ceil(data.length / row) - made.length;
  if (left > 0) made.push(`… ${left} more lines: all of it is in the answer's file`);
  return made.join("\n");
}

function outputs(answer) {
  const exact = withDigits(answer.text).outputs ?? [];
  return (answer.parsed.outputs ?? []).map((t, i) => el("div", { class: "output" },
    el("p", {}, el("strong", {}, t.name), " ", el("span", { class: "quiet" }, `${t.datatype} [${t.shape.join(", ")}]`)),
    el("pre", {}, el("code", {}, lines((exact[i]?.data ?? []).flat(Infinity), t.shape.at(-1) || 1)))));
}

export class Infer {
  constructor(models) {
    this.models = models;
    this.shown = null;
    this.form = byId("infer");
    this.select = byId("infer-model");
    this.body = byId("infer-body");
    this.prove = byId("infer-prove");
    this.result = byId("result");
    this.select.addEventListener("change", () => this.offer());
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.run();
    });
    this.body.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.form.requestSubmit();
    });
  }

  update(status) {
    this.status = status;
    const usable = status.models.filter((m) => m.state !== "unloaded");
    const keys = usable.map(keyOf);
    if (keys.join() !== [...this.select.options].map((o) => o.value).join()) {
      const chosen = this.select.value;
      fill(this.select, usable.map((m) => el("option", { value: keyOf(m) },
        `${m.id} version ${m.version}${m.labels.length > 0 ? ` (${m.labels.join(", ")})` : ""}`)));
      if (keys.includes(chosen)) this.select.value = chosen;
    }
    this.form.hidden = keys.length === 0;
    if (this.select.value !== this.shown) this.offer();
  }

  model() {
    return this.status.models.find((m) => keyOf(m) === this.select.value);
  }

  /** Puts an example for the chosen model into the form. */
  async offer() {
    const model = this.model();
    this.shown = this.select.value;
    fill(this.result);
    if (!model) return undefined;
    // Of what is not loaded nobody knows yet.
    const can = model.proofs.on && (model.proofs.class !== null || model.proofs.precision === null);
    this.prove.disabled = !can;
    this.prove.checked = can;
    try {
      const response = await fetch(pathOf(model));
      if (!response.ok) return this.refuse(await said(response));
      const details = await response.json();
      if (this.shown === keyOf(model)) this.body.value = example(details.signature);
    } catch (e) {
      this.shown = null;
      this.refuse(`No example: ${e.message}`);
    }
    return undefined;
  }

  refuse(why) {
    fill(this.result, el("div", { class: "notice bad", role: "alert" }, why));
  }

  async run() {
    const model = this.model();
    const button = byId("infer-run");
    let parsed;
    try {
      parsed = JSON.parse(this.body.value);
      if (parsed === null || Array.isArray(parsed) || typeof parsed !== "object") throw new Error("expected an object");
    } catch (e) {
      this.body.focus();
      return this.refuse(`The request is no JSON object: ${e.message}`);
    }
    button.disabled = true;
    try {
      await this.send(model, parsed);
    } catch (e) {
      this.refuse(`No answer: ${e.message}`);
    } finally {
      button.disabled = false;
    }
  }

  async send(model, parsed) {
    const wanted = this.prove.checked && !this.prove.disabled;
    const sent = wanted ? proving(this.body.value, parsed) : { body: this.body.value, headers: {} };
    const path = `/v2/models/${encodeURIComponent(model.id)}/versions/${encodeURIComponent(model.version)}/infer`;
    const began = performance.now();
    const response = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json", ...sent.headers },
      body: sent.body,
    });
    if (!response.ok) return this.refuse(await said(response));
    if (response.headers.has("Inference-Header-Content-Length")) {
      return this.refuse("The answer is binary, as the request asks; this form shows JSON.");
    }
    const answer = { text: await response.text() };
    const took = performance.now() - began;
    answer.parsed = JSON.parse(answer.text);
    const verdictBox = el("div", {});
    fill(this.result, el("article", { class: "card" },
      el("h3", {}, "Answer ", el("span", { class: "quiet" }, `of ${answer.parsed.model_name} version ${answer.parsed.model_version}, after ${format.seconds(took / 1000)}`)),
      outputs(answer), verdictBox));
    const proof = answer.parsed.parameters?.grey_proof;
    if (!proof) return undefined;
    const known = { model_hash: model.model_hash };
    if (sent.nonce) known.nonce = known.session_nonce = sent.nonce;
    if (sent.salt) known.salt = sent.salt;
    // Texts put together, so that every number stays as it was written.
    const asked = `{"proof": ${JSON.stringify(proof)}, "request": ${sent.body}, "answer": ${answer.text}, "known": ${JSON.stringify(known)}}`;
    const judged = await fetch("/grey/v1/verify", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: asked,
    });
    if (!judged.ok) {
      fill(verdictBox, el("div", { class: "notice bad", role: "alert" }, `The proof was not verified: ${await said(judged)}`));
      return undefined;
    }
    const verdict = await judged.json();
    const good = verdict.overall === "valid";
    const passed = verdict.checks.filter((c) => c.result === "pass").length;
    const failed = verdict.checks.filter((c) => c.result === "fail").length;
    const exec = verdict.view?.exec;
    fill(verdictBox,
      el("h3", {}, "Proof ", el("span", { id: "verdict", class: `badge ${good ? "good" : failed ? "bad" : "warn"}` }, verdict.overall),
        el("span", { class: "quiet" }, ` ${passed} of ${verdict.checks.length} checks pass, ${failed} fail; judged by this node`)),
      exec ? el("p", { class: "quiet" }, `${verdict.view.platform} evidence, class ${exec.class}, ${exec.engine} ${exec.engine_version}, ${exec.precision} on ${exec.device}`) : null,
      checks(verdict), elsewhere(sent.body, answer, known, verdict));
    return undefined;
  }
}
