// Targets and deployments: can they be called, how fast are they, what fails.

import { get } from "./api.js";
import { el, fill, head, table } from "./dom.js";
import { bytes, count, name, seconds } from "./format.js";

const STATES = { closed: ["good", "well"], "half-open": ["warn", "being tried"], open: ["bad", "left alone"], ejected: ["bad", "sent off"], unknown: ["", "not called yet"] };

function card(row) {
  const [kind, words] = STATES[row.state] ?? ["", row.state];
  const failed = Object.entries(row.failed);
  return el("section", { class: "card target" },
    el("header", {}, el("h2", {}, row.id), el("span", { class: `badge ${kind}` }, row.cooling_s > 0 ? `${words}, ${seconds(row.cooling_s)}` : words)),
    el("dl", { class: "kv" },
      el("dt", {}, "median"), el("dd", {}, seconds(row.p50_s)),
      el("dt", {}, "95 of 100 within"), el("dd", {}, seconds(row.p95_s)),
      el("dt", {}, "answered"), el("dd", {}, count(row.answered)),
      el("dt", {}, "on their way"), el("dd", {}, count(row.outstanding)),
      failed.map(([code, n]) => [el("dt", { class: "bad" }, code), el("dd", { class: "bad" }, count(n))])),
    row.deployments.length > 1 &&
      table("Deployments", [["place", (d) => d.id], ["state", (d) => (STATES[d.state] ?? ["", d.state])[1]], ["on their way", (d) => count(d.outstanding), true]], row.deployments));
}

export function health(page) {
  const place = el("div", { class: "stack" });
  fill(page.main, head("Health", "A target that fails is left alone for a while and tried again; latencies are those of the last ten minutes."), place);
  return async () => {
    const found = await get("health");
    const refused = Object.entries(found.refused);
    const workers = Object.entries(found.workers);
    fill(place,
      el("div", { class: "targets" }, found.targets.map(card)),
      el("div", { class: "two" },
        el("section", { class: "card" }, el("h2", {}, "Workers"),
          table("Processes that share the port", [["worker", (w) => w[0]], ["memory", (w) => bytes(w[1].memory_bytes), true], ["running", (w) => name(w[1].running, "–"), true], ["waiting", (w) => name(w[1].waiting, "–"), true]], workers)),
        el("section", { class: "card" }, el("h2", {}, "Turned away"),
          refused.length ? table("Before anything was decided, since the start", [["code", (r) => r[0]], ["calls", (r) => count(r[1]), true]], refused) : el("p", { class: "soft" }, "Nobody was turned away: no wrong key, no limit, no budget, no guard."))));
  };
}
