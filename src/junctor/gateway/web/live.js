// Decisions as they come. Rows are kept and changed in place, so that an open one stays open and focus stays where it is.

import { get } from "./api.js";
import { el, empty, fill, head } from "./dom.js";
import { clock, name, seconds, usd } from "./format.js";
import { story } from "./story.js";

const MOST = 100;

export const badge = (row) => {
  if (!row.outcome) return el("span", { class: "badge warn" }, "under way");
  if (row.outcome.error) return el("span", { class: "badge bad", title: row.outcome.error }, row.outcome.error);
  if (row.policy === "cache") return el("span", { class: "badge accent" }, "cache");
  const tries = row.outcome.attempts?.length ?? 1;
  return el("span", { class: "badge good" }, tries > 1 ? `${tries} calls` : "answered");
};

function summary(row) {
  const out = row.outcome?.outcome ?? {};
  const who = row.outcome?.target || row.target;
  return [
    el("span", { class: "when soft" }, clock(row.at)),
    el("span", { class: "who cut" }, el("span", { class: "soft" }, row.alias ? `${row.alias} → ` : ""), el("b", {}, who)),
    el("span", { class: "what cut soft" }, name(row.text, row.redacted ? "prompt left out" : "prompt not kept")),
    el("span", { class: "cost num" }, usd(out.cost_usd)),
    el("span", { class: "took num" }, seconds(out.latency_s)),
    el("span", { class: "state" }, badge(row)),
  ];
}

function item(row, fresh) {
  const node = el("li", { class: fresh && "new", "data-id": row.id }, el("details", {}, el("summary", {}, summary(row))));
  node.row = row;
  node.firstChild.addEventListener("toggle", () => {
    const open = node.firstChild.open;
    node.querySelector(".story")?.remove();
    if (open) node.firstChild.append(story(node.row));
  });
  return node;
}

function change(node, row) {
  node.row = row;
  fill(node.querySelector("summary"), summary(row));
  const shown = node.querySelector(".story");
  if (shown) shown.replaceWith(story(row));
}

export function live(page) {
  const nodes = new Map();
  const held = new Map(); // while a row is open, new ones wait: nothing moves under the reader's eyes
  let last = 0;
  let paused = false;
  let hidden = localStorage.getItem("redacted") === "1";
  const list = el("ol", { class: "feed", "aria-label": "Decisions, the latest first" });
  const place = el("div", {});
  const pause = el("button", { type: "button", class: "quiet", "aria-pressed": "false", onclick: () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    pause.textContent = paused ? "Go on" : "Pause";
  } }, "Pause");
  const hide = el("button", { type: "button", class: "quiet", "aria-pressed": String(hidden), onclick: () => {
    hidden = !hidden;
    localStorage.setItem("redacted", hidden ? "1" : "0");
    hide.setAttribute("aria-pressed", String(hidden));
    clear();
    last = 0;
    page.now();
  } }, "Hide prompts");
  const more = el("button", { type: "button", class: "quiet ghost", onclick: () => add() }, "Show 0 new");
  const add = (fresh = false) => {
    for (const row of held.values()) {
      const node = item(row, fresh);
      nodes.set(row.id, node);
      list.prepend(node);
    }
    held.clear();
    more.classList.add("ghost");
  };
  const clear = () => { nodes.clear(); held.clear(); list.replaceChildren(); };
  fill(page.main, head("Live decisions", "Every request as it is decided: who takes it, why, and what came of it. Open a row for the whole story.", more, pause, hide), place);
  return async () => {
    if (paused) return;
    const first = last === 0;
    const found = await get("decisions", { after: last, limit: MOST, redacted: hidden ? 1 : "" });
    if (found.last < last) clear();
    last = found.last;
    for (const row of found.decisions.toReversed()) {
      const known = nodes.get(row.id);
      if (known) change(known, row);
      else held.set(row.id, row);
    }
    while (held.size > MOST) held.delete(held.keys().next().value);
    if (!list.querySelector("details[open]")) add(!first && held.size < 6);
    more.textContent = `Show ${held.size} new`;
    more.classList.toggle("ghost", !held.size);
    while (list.childElementCount > MOST) {
      nodes.delete(list.lastChild.dataset.id);
      list.lastChild.remove();
    }
    if (list.childElementCount) { if (!list.isConnected) fill(place, list); }
    else if (!place.firstChild) fill(place, empty("No decision yet", "Send a request, and it appears here within a second.", page.example()));
  };
}
