// Histograms as the node counts them: upper bounds, a count for each, one more for what is above.

import { el } from "./dom.js";
import { count, plural } from "./format.js";

/** Fewest bars that are drawn, so that one value does not fill the figure. */
const BARS_MIN = 6;

/** What `now` counted since `then`; all of it where the node has started anew. */
export function since(now, then) {
  if (!then || then.count > now.count) return now;
  return {
    bounds: now.bounds,
    counts: now.counts.map((n, i) => Math.max(0, n - (then.counts[i] ?? 0))),
    count: now.count - then.count,
    sum: now.sum - then.sum,
  };
}

/** The value below which a share `q` lies, by interpolation; null where nothing was counted. */
export function quantile(h, q) {
  const total = h.counts.reduce((a, b) => a + b, 0);
  if (total === 0) return null;
  const rank = q * total;
  let below = 0;
  for (let i = 0; i < h.counts.length; i += 1) {
    const here = h.counts[i];
    if (here > 0 && below + here >= rank) {
      const low = i === 0 ? 0 : h.bounds[i - 1];
      const high = h.bounds[i] ?? low;
      return low + (high - low) * ((rank - below) / here);
    }
    below += here;
  }
  return h.bounds[h.bounds.length - 1];
}

/** The part of the buckets that holds something, and a little on both sides. */
function shown(h) {
  const used = h.counts.map((n, i) => (n > 0 ? i : -1)).filter((i) => i >= 0);
  if (used.length === 0) return [0, Math.min(BARS_MIN, h.counts.length)];
  let from = Math.max(0, used[0] - 1);
  let to = Math.min(h.counts.length, used[used.length - 1] + 2);
  while (to - from < BARS_MIN && (from > 0 || to < h.counts.length)) {
    if (to < h.counts.length) to += 1;
    if (to - from < BARS_MIN && from > 0) from -= 1;
  }
  return [from, to];
}

/** A figure that `update(histogram)` redraws; `unit` writes a bound. */
export function figure(title, unit) {
  const note = el("span", { class: "quiet" });
  const bars = el("div", { class: "bars", role: "img" });
  const node = el("figure", {}, el("figcaption", {}, el("strong", {}, title), " ", note), bars);
  let drawn = "";
  const update = (h, said) => {
    note.textContent = said;
    const key = h.counts.join();
    if (key === drawn) return;
    drawn = key;
    const [from, to] = shown(h);
    const most = Math.max(1, ...h.counts);
    const words = [];
    const made = [];
    for (let i = from; i < to; i += 1) {
      const bound = h.bounds[i];
      const label = bound === undefined ? `> ${unit(h.bounds[i - 1])}` : unit(bound);
      const range = bound === undefined ? label : `up to ${label}`;
      if (h.counts[i] > 0) words.push(`${range}: ${count(h.counts[i])}`);
      const bar = el("div", { class: h.counts[i] > 0 ? "bar" : "bar none" });
      bar.style.setProperty("--share", String(h.counts[i] / most));
      made.push(el("div", { class: "column", title: `${range}: ${count(h.counts[i])}` },
        el("div", { class: "well" }, bar), el("span", {}, label)));
    }
    bars.setAttribute("aria-label", `${title}: ${words.join(", ") || "nothing yet"}`);
    bars.replaceChildren(...made);
  };
  return { node, update };
}

export const total = (h, one, more) => plural(h.count, one, more);
