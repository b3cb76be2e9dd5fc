// Numbers for people.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

export function bytes(n) {
  if (n === null || n === undefined) return "unknown";
  let unit = 0;
  let value = n;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`;
}

export function seconds(s) {
  if (s === null || s === undefined) return "–";
  const short = (value) => (value >= 100 ? Math.round(value) : Number(value.toPrecision(2)));
  if (s < 0.001) return `${short(s * 1e6)} µs`;
  if (s < 1) return `${short(s * 1e3)} ms`;
  return `${short(s)} s`;
}

export function duration(ms) {
  const s = Math.floor(ms / 1000);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

export const count = (n) => n.toLocaleString("en").replaceAll(",", "\u202f");

export function rate(n) {
  return n >= 100 ? count(Math.round(n)) : n >= 10 || n === 0 ? n.toFixed(0) : n.toFixed(1);
}

export const plural = (n, one, more) => `${count(n)} ${n === 1 ? one : more}`;
