// Policies beside an alias's own: shadows that only watch, and those that have a share of the traffic.

import { get } from "./api.js";
import { el, empty, fill, head } from "./dom.js";

const EXAMPLE = '[[aliases.auto.trials]]\nname = "cheaper"\npolicy = "linear"   # one of [policies]\nshare = 0.0         # a shadow: it decides, nobody acts; 0.1 gives it a tenth of the traffic';

export function compare(page) {
  const place = el("div", { class: "stack" });
  fill(page.main, head("Compare", "A candidate policy beside the one that serves: what it would have done, and what that is estimated to earn."), place);
  return async () => {
    const found = await get("trials");
    const rows = Object.entries(found.aliases).filter(([, trials]) => trials.length);
    if (!rows.length) return void fill(place, empty("No trial is running", "Name a second policy of an alias. As a shadow it sees every request and decides, but nobody acts on it.", EXAMPLE));
  };
}
