// Two kinds of pictures: a line without axes, and cost against quality.

import { svg } from "./dom.js";
import { usd } from "./format.js";

export function spark(values, label) {
  const known = values.map((v) => (Number.isFinite(v) ? v : 0));
  const root = svg("svg", { class: "spark", viewBox: "0 0 100 30", preserveAspectRatio: "none", role: "img", "aria-label": label });
  if (known.length < 2) return root;
  const top = Math.max(...known) || 1;
  const points = known.map((v, i) => [(i / (known.length - 1)) * 100, 28 - (v / top) * 25]);
  const line = points.map(([x, y]) => `${x.toFixed(2)},${y.toFixed(2)}`).join(" ");
  root.append(svg("polygon", { class: "area", points: `0,30 ${line} 100,30` }), svg("polyline", { class: "stroke", points: line }));
  return root;
}

function ticks(low, high, most = 5) {
  const raw = (high - low) / most || 1;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * unit).find((s) => s >= raw);
  const found = [];
  for (let t = Math.ceil(low / step) * step; t <= high + step * 1e-6; t += step) found.push(t);
  return found;
}

function scale(values, from, to, log) {
  const f = log ? Math.log10 : (x) => x;
  let low = Math.min(...values.map(f));
  let high = Math.max(...values.map(f));
  const pad = (high - low || Math.abs(high) || 1) * 0.12;
  low = low - pad;
  high = high + pad;
  if (!log && Math.min(...values) >= 0) low = Math.max(0, low);
  const at = (x) => from + ((f(x) - low) / (high - low)) * (to - from);
  if (!log) return { at, ticks: ticks(low, high) };
  const found = [];
  for (let e = Math.floor(low); e <= high; e++) for (const m of [1, 2, 5]) if (Math.log10(m) + e >= low && Math.log10(m) + e <= high) found.push(m * 10 ** e);
  return { at, ticks: found.length > 6 ? found.filter((t) => /^1e|^10*$|^0\.0*1$/.test(String(t))) : found };
}

// what tossing coins between two targets gives: a straight line, which a log scale bends
const mixtures = (a, b, steps = 24) =>
  Array.from({ length: steps }, (_, i) => (i + 1) / steps).map((t) => ({ cost_usd: a.cost_usd + t * (b.cost_usd - a.cost_usd), quality: a.quality + t * (b.quality - a.quality) }));

const overlap = (a, b) => Math.max(0, Math.min(a.x + a.w, b.x + b.w) - Math.max(a.x, b.x)) * Math.max(0, Math.min(a.y + a.h, b.y + b.h) - Math.max(a.y, b.y));

// where a name stands beside its point: the nearest place that covers least
function place(x, y, words, taken, W) {
  const w = words.length * 6.9;
  const beside = [0, -12, 12, -24, 24, -36, 36].flatMap((dy) => [[10, 4 + dy], [-10 - w, 4 + dy]]);
  const boxes = [...beside.slice(0, 2), [-w / 2, -11], [-w / 2, 20], ...beside.slice(2)].map(([dx, dy]) => ({ x: x + dx, y: y + dy - 11, w, h: 14 }));
  const inside = boxes.filter((b) => b.x > 2 && b.x + b.w < W - 2 && b.y > 2);
  const covers = (b) => taken.reduce((sum, t) => sum + overlap(b, t), 0);
  const best = (inside.length ? inside : boxes).reduce((a, b) => (covers(b) < covers(a) - 0.5 ? b : a));
  taken.push(best);
  return best;
}

export function frontier(found, narrow) {
  const W = narrow ? 330 : 760;
  const H = narrow ? 340 : 400;
  const left = 52, right = W - 18, top = 18, bottom = H - 46;
  const points = found.points.filter((p) => p.cost_usd !== null && p.quality !== null);
  const us = found.policy.cost_usd !== null && found.policy.quality !== null ? found.policy : null;
  const all = us ? [...points, us] : points;
  const costs = all.map((p) => p.cost_usd);
  const log = Math.min(...costs) > 0 && Math.max(...costs) / Math.min(...costs) > 12;
  const x = scale(costs, left + 10, right - 10, log);
  const y = scale(all.map((p) => p.quality), bottom - 8, top + 8, false);
  const root = svg("svg", { class: "plot", viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": "Cost per request against quality, the table below holds the same figures" });
  for (const t of x.ticks) root.append(svg("line", { class: "axis", x1: x.at(t), x2: x.at(t), y1: top, y2: bottom }), svg("text", { x: x.at(t), y: bottom + 17, "text-anchor": "middle" }, usd(t * 1000)));
  for (const t of y.ticks) root.append(svg("line", { class: "axis", x1: left, x2: right, y1: y.at(t), y2: y.at(t) }), svg("text", { x: left - 8, y: y.at(t) + 4, "text-anchor": "end" }, t.toFixed(2)));
  root.append(svg("text", { x: right, y: H - 8, "text-anchor": "end" }, `USD per 1,000 requests${log ? ", log scale" : ""} →`));
  root.append(svg("text", { x: 4, y: 11 }, `↑ ${found.basis} quality`));
  const edge = found.hull.map((id) => points.find((p) => p.id === id));
  const mixed = edge.flatMap((p, i) => (i ? mixtures(edge[i - 1], p) : [p]));
  root.append(svg("polyline", { class: "hull", points: mixed.map((p) => `${x.at(p.cost_usd)},${y.at(p.quality)}`).join(" ") }));
  const taken = all.map((p) => ({ x: x.at(p.cost_usd) - 7, y: y.at(p.quality) - 7, w: 14, h: 14 }));
  const names = [];
  for (const p of points) {
    const [cx, cy] = [x.at(p.cost_usd), y.at(p.quality)];
    root.append(svg("circle", { class: found.hull.includes(p.id) ? "dot on" : "dot", cx, cy, r: 5.5 }));
    const words = p.id.length > 22 ? p.id.slice(0, 21) + "…" : p.id;
    const box = place(cx, cy, words, taken, W);
    names.push(svg("text", { class: "name", x: box.x, y: box.y + 11 }, words));
  }
  root.append(...names);
  if (us) {
    const [cx, cy] = [x.at(us.cost_usd), y.at(us.quality)];
    root.append(svg("path", { class: "us", d: `M${cx} ${cy - 10}L${cx + 10} ${cy}L${cx} ${cy + 10}L${cx - 10} ${cy}Z` }));
    const box = place(cx, cy, found.alias, taken, W);
    root.append(svg("text", { class: "usname", x: box.x, y: box.y + 11 }, found.alias));
  }
  return root;
}
