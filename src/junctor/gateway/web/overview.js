// The first page: how it goes now, what today cost, and what it would have cost otherwise.

import { get } from "./api.js";
import { spark } from "./charts.js";
import { bar, el, empty, facts, fill, head } from "./dom.js";
import { bytes, count, name, percent, rate, seconds, usd } from "./format.js";

const tile = (title, value, note, picture) => el("section", { class: picture ? "card tile" : "card tile short" }, el("h3", {}, title), el("div", { class: "value" }, value), el("div", { class: "note" }, note), picture);

function saved(today) {
  if (!today || today.saved_usd === null) return ["–", "nothing to compare with yet"];
  const share = today.single_usd ? today.saved_usd / today.single_usd : null;
  return [usd(today.saved_usd), `${percent(share)} less than always the best single, estimated`];
}

function tiles(found) {
  const { minute, today, series } = found;
  const share = minute.requests_per_s ? minute.errors_per_s / (minute.requests_per_s || 1) : minute.requests_per_s === null ? null : 0;
  const [saving, basis] = saved(today);
  const line = (f, words) => spark(series.map((p) => p[f]), `${words}, last ten minutes`);
  return el("div", { class: "tiles" },
    tile("Requests a second", rate(minute.requests_per_s), "last minute", line("requests_per_s", "requests a second")),
    tile("Median answer", seconds(minute.p50_s), `95 of 100 within ${seconds(minute.p95_s)}`, line("p50_s", "median latency")),
    tile("Errors", percent(share, share && share < 0.1 ? 1 : 0), `${rate(minute.errors_per_s)} a second, last minute`, line("errors_per_s", "errors a second")),
    tile("Cost today", usd(today?.cost_usd), today ? `${count(today.decisions)} decisions, ${count(today.calls)} calls` : "needs a journal"),
    tile("Saved today", saving, basis),
    tile("Tokens today", today ? count(today.input_tokens + today.output_tokens) : "–", today ? `${count(today.input_tokens)} in, ${count(today.output_tokens)} out` : ""));
}

function split(today) {
  const rows = today.targets.filter((row) => row.calls).toSorted((a, b) => b.calls - a.calls);
  const all = rows.reduce((sum, row) => sum + row.calls, 0);
  return el("section", { class: "card" }, el("h2", {}, "Who took today’s calls"),
    el("div", { class: "bars" }, rows.slice(0, 12).map((row) => bar(name(row.target), row.calls / all, `${percent(row.calls / all)} · ${usd(row.cost_usd)}`))));
}

export function savingWords(row) {
  if (row.saved_usd === null || row.saved_usd === undefined) return `${row.alias}: ${count(row.answered)} answers cost ${usd(row.billed_usd)}; what a single target would have cost is not known.`;
  const share = row.saved_share === null ? "" : ` (${percent(row.saved_share)})`;
  const basis = row.basis === "list price" ? "the dearest by list price" : `best by ${row.basis}`;
  return `${row.alias}: the bill is ${usd(row.billed_usd)}. Always ${row.best_single} (${basis}) would have cost about ${usd(row.single_usd)} for the ${count(row.compared)} answers that can be compared. Less failed calls (${usd(row.failed_usd)}) and the gateway’s own processor time (${usd(row.cpu_usd)}) that is ${usd(row.saved_usd)}${share} saved.`;
}

function savings(today) {
  const rows = today.savings.filter((row) => row.decisions);
  return el("section", { class: "card" }, el("h2", {}, "What routing saved today"),
    rows.length ? el("div", { class: "stack" }, rows.map((row) => el("p", {}, savingWords(row)))) : el("p", { class: "soft" }, "Savings are counted for aliases; today only targets were called by their own name."),
    el("p", { class: "soft" }, "An estimate: the spend page says what it rests on."));
}

function machine(found) {
  return el("section", { class: "card" }, el("h2", {}, "This gateway"),
    facts([
      ["version", found.version],
      ["workers", found.workers],
      ["memory", bytes(found.memory_bytes)],
      ["aliases", Object.keys(found.aliases).join(", ") || "none"],
      ["targets", found.targets.length],
      ["prompts in the journal", { full: "kept", digest: "as digests", none: "not kept" }[found.journal.text]],
      ["cooling down", found.cooling.join(", ") || "none"],
    ]));
}

export function overview(page) {
  const place = el("div", { class: "stack" });
  fill(page.main, head("Overview", "How it goes now, what today cost, and what it would have cost otherwise."), place);
  return async () => {
    const found = await get("overview");
    page.know(found);
    const today = found.today;
    const parts = [tiles(found)];
    if (found.journal.unread > 1e6) parts.push(el("p", { class: "card soft" }, `The journal is being read: ${(found.journal.unread / 1e6).toFixed(0)} MB to go.`));
    if (today?.decisions) parts.push(el("div", { class: "two" }, split(today), savings(today)));
    else parts.push(empty(today ? "No request today" : "No journal is kept", today ? "Send one, and the figures above begin to move." : "Set [journal] path, and cost and savings are shown here.", today ? page.example() : '[journal]\npath = "junctor.journal"'));
    parts.push(machine(found));
    fill(place, parts);
  };
}
