// Which target would take a prompt, and why; and, if wanted, what it answers.

import { get, post } from "./api.js";
import { el, facts, fill, head } from "./dom.js";
import { number, seconds, usd } from "./format.js";
import { attempts, ranking, reasons, refusals } from "./story.js";

const EXAMPLES = ["What is 12% of 80?", "How many kilometres are 26.2 miles?", "Write a haiku about load balancers."];

function routed(found) {
  const { decision, refusals: no } = found.routed;
  return el("section", { class: "card stack" },
    el("div", {}, el("h3", {}, "Would be taken by"), el("div", { class: "big" }, decision.target)),
    facts([["policy", decision.policy + (decision.version ? ` (${decision.version})` : "")], ["propensity", number(decision.propensity, 3)], ["decided in", seconds(found.took_s)]]),
    reasons(decision.reasons), ranking(decision.ranked, decision.target), refusals(no));
}

function answered(found) {
  const out = found.outcome;
  return el("section", { class: "card stack" },
    el("div", {}, el("h3", {}, "Answered by"), el("div", { class: "big" }, found.target)),
    facts([["cost", usd(out.cost_usd)], ["took", seconds(out.latency_s)], ["tokens", out.input_tokens !== undefined ? `${out.input_tokens} in, ${out.output_tokens} out` : null], ["decision", el("span", { class: "mono" }, found.decision.id)], ...Object.entries(found.notes)]),
    el("pre", { class: "answer", tabindex: 0, role: "group", "aria-label": "Answer" }, found.text || "(an empty answer)"),
    attempts(found.attempts), reasons(found.decision.reasons), ranking(found.decision.ranked, found.decision.target));
}

export function playground(page) {
  const model = el("select", { name: "model" });
  const text = el("textarea", { name: "text", placeholder: "What a user would ask", required: true, maxlength: 100000 });
  const field = (words, more) => el("label", {}, words, el("input", { type: "number", step: "any", min: 0, inputmode: "decimal", ...more }));
  const [budget, floor] = [field("Most USD for it", { name: "budget_usd", placeholder: "no limit" }), field("Least quality, 0 to 1", { name: "quality_floor", max: 1, placeholder: "no floor" })];
  const out = el("div", { class: "stack", "aria-live": "polite" });
  const send = el("button", { type: "button", class: "plain", onclick: () => run("try", answered) }, "Send it");
  const form = el("form", { class: "card stack", onsubmit: (event) => { event.preventDefault(); run("route", routed); } },
    el("label", {}, "Prompt", text),
    el("div", { class: "row" }, EXAMPLES.map((words) => el("button", { type: "button", class: "quiet", onclick: () => { text.value = words; text.focus(); } }, words))),
    el("div", { class: "fields" }, el("label", {}, "Alias or target", model), budget, floor),
    el("div", { class: "row" }, el("button", { type: "submit" }, "Who would take it?"), send, el("span", { class: "soft" }, "The first calls nobody; the second calls, costs and is journalled like any request.")));
  fill(page.main, head("Playground", "Which target would take a prompt and why: every score, every reason, every refusal."), el("div", { class: "stack" }, form, out));

  async function run(path, show) {
    if (!form.reportValidity()) return;
    const limits = [budget, floor].map((l) => l.querySelector("input")).filter((i) => i.value !== "").map((i) => [i.name, Number(i.value)]);
    for (const b of form.querySelectorAll("button")) b.disabled = true;
    try {
      fill(out, show(await post(path, { model: model.value, text: text.value, ...Object.fromEntries(limits) })));
    } catch (error) {
      if (error.status === 401) return page.locked();
      fill(out, el("div", { class: "error", role: "alert" }, error.message), refusals(error.refusals));
    } finally {
      for (const b of form.querySelectorAll("button")) b.disabled = false;
    }
  }

  return async () => {
    if (model.options.length) return;
    const found = await get("overview");
    page.know(found);
    fill(model,
      el("optgroup", { label: "aliases" }, Object.keys(found.aliases).map((id) => el("option", { value: id }, id))),
      el("optgroup", { label: "targets" }, found.targets.map((id) => el("option", { value: id }, id))));
  };
}
