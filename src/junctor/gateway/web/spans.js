// How far back a page looks.

import { el } from "./dom.js";

const day = (back) => new Date(Date.now() - back * 86_400_000).toISOString().slice(0, 10);

export function days(changed) {
  const options = [["0", "Today"], ["6", "7 days"], ["29", "30 days"], ["all", "All"]];
  return el("select", { "aria-label": "Since", onchange: changed }, options.map(([value, words]) => el("option", { value }, words)));
}

export const since = (select) => (select.value === "all" ? "all" : day(Number(select.value)));
