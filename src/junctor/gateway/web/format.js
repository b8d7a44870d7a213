// Numbers as people read them; "–" for what is not known.

const NONE = "–";
const known = (x) => x !== null && x !== undefined && Number.isFinite(x);

export function usd(x) {
  if (!known(x)) return NONE;
  const size = Math.abs(x);
  const sign = x < 0 ? "−" : "";
  if (size === 0) return "$0";
  if (size >= 1000) return sign + "$" + Math.round(size).toLocaleString("en-US");
  if (size >= 0.1) return sign + "$" + size.toFixed(size >= 1 ? 2 : 3);
  const first = -Math.floor(Math.log10(size)); // the place of the first digit
  return sign + "$" + size.toFixed(Math.min(12, first + (size >= 0.001 ? 2 : 1)));
}

export function seconds(x) {
  if (!known(x)) return NONE;
  if (x < 0.00095) return (x * 1e6).toFixed(0) + " µs";
  if (x < 0.0995) return (x * 1000).toFixed(x < 0.00995 ? 1 : 0) + " ms";
  return x < 1 ? (x * 1000).toFixed(0) + " ms" : x.toFixed(x < 10 ? 2 : 1) + " s";
}

export function count(x) {
  if (!known(x)) return NONE;
  const size = Math.abs(x);
  if (size >= 1e9) return (x / 1e9).toFixed(2) + " G";
  if (size >= 1e6) return (x / 1e6).toFixed(2) + " M";
  return Math.round(x).toLocaleString("en-US");
}

export const rate = (x) => (known(x) ? (x >= 100 ? Math.round(x).toLocaleString("en-US") : x.toFixed(x >= 10 ? 1 : 2)) : NONE);
export const percent = (x, digits = 0) => (known(x) ? (x * 100).toFixed(digits) + " %" : NONE);
export const number = (x, digits = 3) => (known(x) ? x.toFixed(digits).replace("-", "−") : NONE);
export const clock = (at) => new Date(at * 1000).toLocaleTimeString("en-GB");
export const when = (at) => new Date(at * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" });
export const bytes = (x) => (known(x) ? (x / 1e6).toFixed(0) + " MB" : NONE);
export const name = (x, none = "none") => (x === "" || x === undefined || x === null ? none : x);
