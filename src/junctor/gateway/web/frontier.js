// Cost against quality of an alias's targets, and where its policy came out.

import { get } from "./api.js";
import { frontier as draw } from "./charts.js";
import { el, empty, fill, head, table } from "./dom.js";
import { count, number, usd } from "./format.js";
import { days, since } from "./spans.js";

export function frontier(page) {
  let alias = "";
  let shown = "";
  const place = el("div", { class: "stack" });
  const pick = el("select", { "aria-label": "Alias", onchange: () => { alias = pick.value; page.now(); } });
  const span = days(() => page.now());
  fill(page.main, head("Frontier", "What each target of an alias would cost and be worth on the same requests, and the policy’s own point among them.", pick, span), place);
  const narrow = matchMedia("(max-width: 700px)");
  return async () => {
    const found = await get("frontier", { alias, since: since(span) });
    if (found.aliases.join("\n") !== shown) {
      shown = found.aliases.join("\n");
      fill(pick, found.aliases.map((id) => el("option", { value: id }, id)));
    }
    alias = pick.value = found.alias;
    const drawable = found.points.filter((p) => p.cost_usd !== null && p.quality !== null);
    if (!found.decisions) return void fill(place, empty("Nothing was decided yet", found.journal ? `Ask ${alias} something, or look further back.` : "The frontier is drawn from the journal: set [journal] path.", page.example(alias)));
    const rows = [{ id: `${found.alias} (policy)`, us: true, decisions: found.decisions, ...found.policy }, ...found.points];
    const figures = table(
      `Means over ${count(found.decisions)} decisions; quality is ${found.basis}`,
      [["target", (r) => r.id], ["USD per 1,000", (r) => (r.cost_usd === null ? "–" : usd(r.cost_usd * 1000)), true], ["quality", (r) => number(r.quality), true], ["decisions", (r) => count(r.decisions), true]],
      rows, (r) => r.us);
    fill(place,
      drawable.length
        ? el("section", { class: "card" }, draw(found, narrow.matches))
        : empty("No quality is known", "This policy predicts no quality, and nobody has told any. Send feedback to /v1/feedback, or use a policy that was fitted on outcomes."),
      el("section", { class: "card" }, figures),
      el("p", { class: "soft" }, "The dashed line joins the targets that no mixture of others beats. A policy that reads the prompt can lie above it. Costs of targets that were not called are estimates: predictions of the policy corrected by the bills, else list prices on the tokens used."));
  };
}
