// Policies beside an alias's own: shadows that only watch, and those that have a share of the traffic.

import { get } from "./api.js";
import { el, empty, facts, fill, head, table } from "./dom.js";
import { count, number, percent, usd, when } from "./format.js";

const EXAMPLE = '[[aliases.auto.trials]]\nname = "cheaper"\npolicy = "linear"   # one of [policies]\nshare = 0.0         # a shadow: it decides, nobody acts; 0.1 gives it a tenth';

const SHOWN = { quality: (x) => number(x), cost_usd: (x) => usd(x * 1000) };

function cell(found, show) {
  if (!found || found.value === null) return "–";
  const span = found.low === null ? null : el("span", { class: "soft whole" }, `(${show(found.low)} … ${show(found.high)})`);
  return [el("b", { class: "whole" }, show(found.value)), " ", span];
}

function verdict(compared, better) {
  const d = compared.difference;
  if (d.value === null || d.low === null) return el("span", { class: "badge" }, "too little seen");
  if (d.low <= 0 && d.high >= 0) return el("span", { class: "badge" }, "no difference shown");
  return better(d.value) ? el("span", { class: "badge good" }, "better") : el("span", { class: "badge bad" }, "worse");
}

function measures(report) {
  const rows = [
    ["quality", report.quality, SHOWN.quality, (d) => d > 0],
    ["USD per 1,000", report.cost_usd, SHOWN.cost_usd, (d) => d < 0],
  ].filter((row) => row[1]);
  if (!rows.length) return el("p", { class: "soft" }, "Neither quality nor cost is known yet.");
  const how = report.kind === "shadow" ? "Estimated (doubly robust) from what the current policy did" : "Each side on its own share of the traffic";
  return table(`${how}; in brackets the 95 % interval`,
    [["", (r) => [r[0], el("div", {}, verdict(r[1], r[3]))]], ["current", (r) => cell(r[1].current, r[2])], ["candidate", (r) => cell(r[1].candidate, r[2])], ["difference", (r) => cell(r[1].difference, r[2])]], rows);
}

function card(trial, report) {
  const share = trial.share ? `${percent(trial.share)} of the traffic, by ${trial.by}` : "shadow";
  const shadow = report?.kind === "shadow";
  return el("section", { class: "card stack" },
    el("div", { class: "row" }, el("h2", {}, `${trial.alias}: ${trial.trial}`), el("span", { class: "badge accent" }, share)),
    el("p", { class: "soft" }, `${trial.policy} beside ${trial.current}`),
    report
      ? [
        facts([
          [shadow ? "looked at" : "decisions", count(report.decisions)],
          ["by the candidate", shadow ? null : count(report.taken)],
          ["would have done the same", shadow ? percent(report.agreement) : null],
          ["could not decide", report.undecided || null],
          ["worth of the journal", shadow && report.effective_rows !== null ? `${count(report.effective_rows)} decisions of its own` : null],
        ]),
        measures(report),
        report.notes.length ? el("ul", { class: "soft" }, report.notes.map((words) => el("li", {}, words))) : null,
      ]
      : el("p", { class: "soft" }, "It has not seen a request yet."));
}

export function compare(page) {
  const place = el("div", { class: "stack" });
  fill(page.main, head("Compare", "A candidate policy beside the one that serves: what it earns, or would have earned, over the last 20,000 decisions."), place);
  return async () => {
    const found = await get("trials");
    const told = found.notes.length
      ? el("section", { class: "card" }, el("h2", {}, "What happened to policies"),
        table("From the journal, the latest first", [["when", (n) => when(n.at)], ["about", (n) => n.about], ["event", (n) => n.event], ["", (n) => n.text]], found.notes))
      : null;
    if (!found.trials.length) return void fill(place, told, empty("No trial is running", "Name a second policy for an alias. As a shadow it sees every request and decides, but nobody acts on it.", EXAMPLE));
    if (!found.journal) return void fill(place, empty("No journal is kept", "Trials are compared from the journal: set [journal] path."));
    fill(place, told, found.trials.map((trial) => card(trial, found.reports.find((r) => r.alias === trial.alias && r.trial === trial.trial))));
  };
}
