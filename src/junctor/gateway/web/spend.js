// The books: what it cost by every label, and what it would have cost otherwise.

import { get } from "./api.js";
import { bar, el, empty, fill, head, table } from "./dom.js";
import { count, name, percent, seconds, usd } from "./format.js";
import { savingWords } from "./overview.js";
import { days, since } from "./spans.js";

const NONE = { target: "no answer", alias: "called by name", tenant: "no tenant", key: "no key", team: "no team", policy: "none" };

export function spend(page) {
  let by = "target";
  const place = el("div", { class: "stack" });
  const span = days(() => page.now());
  fill(page.main, head("Spend", "From the journal. Every call is billed to the target that was called, so the tables add up to the bill.", span), place);
  return async () => {
    const found = await get("spend", { since: since(span) });
    if (!found.journal) return void fill(place, empty("No journal is kept", "Set [journal] path: the books are read from it.", '[journal]\npath = "junctor.journal"'));
    if (!found.total.decisions) return void fill(place, empty("Nothing was spent", "There is no decision in this time. Look further back, or send a request.", page.example()));
    if (!found.tables[by]) by = "target";
    const rows = found.tables[by];
    const top = Math.max(...rows.map((row) => row.cost_usd)) || 1;
    const axes = Object.keys(found.tables).map((axis) =>
      el("button", { type: "button", class: "quiet", "data-axis": axis, "aria-pressed": String(axis === by), onclick: async () => { by = axis; await page.now(); place.querySelector(`[data-axis="${axis}"]`)?.focus(); } }, axis));
    const figures = table(
      `${count(found.total.decisions)} decisions, ${count(found.total.calls)} calls, ${usd(found.total.cost_usd)}`,
      [[by, (r) => [name(r[by], NONE[by]), r.name && el("span", { class: "soft" }, ` ${r.name}`)]], ["cost", (r) => usd(r.cost_usd), true], ["share", (r) => percent(found.total.cost_usd ? r.cost_usd / found.total.cost_usd : 0), true], ["decisions", (r) => count(r.decisions), true], ["calls", (r) => count(r.calls), true], ["tokens in", (r) => count(r.input_tokens), true], ["tokens out", (r) => count(r.output_tokens), true]],
      rows);
    const compared = found.savings.filter((row) => row.decisions);
    const held = place.contains(document.activeElement) ? document.activeElement.dataset.axis : null;
    fill(place,
      found.unread > 1e6 ? el("p", { class: "card soft" }, `The journal is being read: ${(found.unread / 1e6).toFixed(0)} MB to go.`) : null,
      el("section", { class: "card stack" }, el("div", { class: "row", role: "group", "aria-label": "Group by" }, axes),
        el("div", { class: "bars" }, rows.slice(0, 8).map((row) => bar(name(row[by], NONE[by]), row.cost_usd / top, usd(row.cost_usd)))), figures,
        found.total.unknown_cost ? el("p", { class: "soft" }, `${count(found.total.unknown_cost)} calls have no known cost: their targets have no price.`) : null),
      el("section", { class: "card stack" }, el("h2", {}, "Against always the best single target"),
        compared.length ? compared.map((row) => el("p", {}, savingWords(row))) : el("p", { class: "soft" }, "No alias was asked."),
        compared.some((row) => row.saved_usd !== null)
          ? table("What the estimates rest on", [["alias", (r) => r.alias], ["single", (r) => name(r.best_single, "–")], ["known by", (r) => r.basis], ["compared", (r) => `${count(r.compared)} of ${count(r.answered)}`, true], ["from predictions", (r) => percent(r.predicted_share), true], ["bills over predictions", (r) => (r.calibration ? r.calibration.toFixed(2) : "–"), true], ["from cache", (r) => count(r.from_cache), true]], compared)
          : null,
        el("p", { class: "soft" }, `Failed calls, checks and cascaded calls are in the bill. The gateway’s own time is charged at ${seconds(found.cpu_s_per_request)} of a processor a request and ${usd(found.usd_per_cpu_hour)} an hour. Answers from a cache are credited with nothing.`)));
    if (held) place.querySelector(`[data-axis="${held}"]`)?.focus();
  };
}
