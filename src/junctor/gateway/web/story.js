// A decision told in full: why this target, what each would have been, what every attempt did.

import { el, facts, table } from "./dom.js";
import { name, number, seconds, usd } from "./format.js";

export function ranking(ranked, chosen) {
  if (!ranked?.length) return null;
  const known = (f) => ranked.some((row) => row.predicted?.[f] !== undefined && row.predicted?.[f] !== null);
  const columns = [["target", (r) => r.target], ["score", (r) => number(r.score, 4), true]];
  if (known("quality")) columns.push(["quality", (r) => number(r.predicted.quality), true]);
  if (known("cost_usd")) columns.push(["cost", (r) => usd(r.predicted.cost_usd), true]);
  if (known("latency_s")) columns.push(["latency", (r) => seconds(r.predicted.latency_s), true]);
  return table("Every target that could take it, as the policy ranked them; quality and cost are predictions", columns, ranked, (r) => r.target === chosen);
}

export function reasons(list) {
  return list?.length ? el("div", {}, el("h3", {}, "Reasons"), el("ul", {}, list.map((why) => el("li", {}, why)))) : null;
}

export function refusals(found) {
  const rows = Object.entries(found ?? {});
  return rows.length ? table("Not eligible", [["target", (r) => r[0]], ["because", (r) => r[1]]], rows) : null;
}

export function attempts(list) {
  if (!list?.length) return null;
  const columns = [
    ["attempt", (a) => a.target + (a.deployment ? ` · ${a.deployment}` : "") + (a.role ? ` (${a.role})` : "")],
    ["result", (a) => (a.error ? el("span", { class: "bad" }, a.error + (a.detail ? `: ${a.detail}` : "")) : el("span", { class: "good" }, "answered"))],
    ["began", (a) => seconds(a.started_s), true],
    ["took", (a) => seconds(a.ended_s - a.started_s), true],
    ["cost", (a) => usd(a.outcome?.cost_usd), true],
  ];
  return table("Calls that were made", columns, list);
}

export function story(row) {
  const done = row.outcome;
  const out = done?.outcome ?? {};
  const prompt = row.text
    ? el("div", {}, el("h3", {}, "Prompt"), el("div", { class: "prompt", tabindex: 0, role: "group", "aria-label": "Prompt" }, row.text))
    : el("p", { class: "soft" }, row.redacted ? "The prompt is left out." : "The prompt is not kept (journal.text), or there was none.");
  return el(
    "div",
    { class: "story" },
    facts([
      ["decision", el("span", { class: "mono" }, row.id)],
      ["asked for", row.alias || row.target],
      ["policy", row.policy + (row.version ? ` (${row.version})` : "")],
      ["propensity", number(row.propensity, 3) + (row.propensity_kind === "estimated" ? " (estimated)" : "")],
      ["trial", row.trial && `${row.trial} (${row.side})`],
      ["tenant", row.tenant],
      ["key", row.key],
      ["tokens", out.input_tokens !== undefined ? `${out.input_tokens} in, ${name(out.output_tokens, "–")} out` : null],
      ["quality", out.quality !== undefined ? number(out.quality) : null],
    ]),
    prompt,
    reasons(row.reasons),
    ranking(row.ranked, row.target),
    attempts(done?.attempts),
    done?.steps?.length ? el("div", {}, el("h3", {}, "Steps of the plan"), el("ul", {}, done.steps.map((s) => el("li", {}, s)))) : null,
    refusals(row.refusals),
    row.shadows?.length ? table("Shadows: what other policies would have done", [["trial", (s) => s.trial], ["would take", (s) => s.target || s.why], ["predicted quality", (s) => number(s.predicted?.quality), true], ["predicted cost", (s) => usd(s.predicted?.cost_usd), true]], row.shadows) : null,
    row.feedback?.length
      ? table("Feedback", [["said", (f) => name(f.comment, "–")], ["quality", (f) => number(f.outcome?.quality), true]], row.feedback)
      : null,
  );
}
