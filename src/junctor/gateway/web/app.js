// Login, pages, colours, and the one clock that everything is refreshed by.

import { post } from "./api.js";
import { compare } from "./compare.js";
import { el, fill } from "./dom.js";
import { frontier } from "./frontier.js";
import { health } from "./health.js";
import { live } from "./live.js";
import { overview } from "./overview.js";
import { playground } from "./playground.js";
import { spend } from "./spend.js";

// name: [title, what draws it, seconds between refreshes (0: never)]
const PAGES = {
  overview: ["Overview", overview, 2],
  live: ["Live", live, 1],
  frontier: ["Frontier", frontier, 5],
  health: ["Health", health, 2],
  spend: ["Spend", spend, 5],
  playground: ["Playground", playground, 0],
  compare: ["Compare", compare, 20],
};
const THEMES = { auto: ["Auto", "as the system says"], light: ["Light", "light"], dark: ["Dark", "dark"] };

const main = document.getElementById("main");
const pulse = document.getElementById("pulse");
const known = { aliases: {}, targets: [] };
let turn = 0;

function say(words, kind) {
  if (pulse.textContent !== words) pulse.textContent = words;
  pulse.className = `pulse ${kind}`;
}

function example(alias) {
  const model = alias || Object.keys(known.aliases)[0] || known.targets[0] || "auto";
  const body = JSON.stringify({ model, messages: [{ role: "user", content: "What is 12% of 80?" }] });
  return `curl ${location.origin}/v1/chat/completions \\\n  -H 'content-type: application/json' \\\n  -d '${body}'`;
}

function open() {
  const wanted = location.hash.slice(1);
  const name = wanted in PAGES ? wanted : "overview";
  const [title, draw, every] = PAGES[name];
  const mine = ++turn;
  document.title = `${title} · junctor`;
  document.getElementById("top").hidden = false;
  for (const link of document.querySelectorAll("#nav a")) {
    if (link.dataset.page === name) {
      link.setAttribute("aria-current", "page");
      link.parentElement.parentElement.parentElement.scrollTo({ left: link.offsetLeft - 80 });
    } else link.removeAttribute("aria-current");
  }
  let timer = 0;
  let busy = null;
  const page = { main, example, locked: login, know: (found) => Object.assign(known, found), now: () => (busy ?? Promise.resolve()).then(refresh) };
  const update = draw(page);

  async function refresh() {
    clearTimeout(timer);
    if (mine !== turn) return;
    busy = update();
    try {
      await busy;
      say("live", "on");
    } catch (error) {
      if (mine !== turn) return;
      if (error.status === 401) return login();
      say(error.status ? "error" : "no contact", "off");
      if (error.status) note(error.message);
    } finally {
      busy = null;
    }
    if (every && mine === turn) timer = setTimeout(() => (document.hidden ? wait() : refresh()), every * 1000);
  }
  function wait() {
    document.addEventListener("visibilitychange", refresh, { once: true });
  }
  return refresh();
}

function note(words) {
  let box = document.getElementById("problem");
  if (!box) main.append((box = el("div", { id: "problem", class: "error", role: "alert" })));
  box.textContent = words;
}

function login(words) {
  turn++;
  document.title = "Log in · junctor";
  document.getElementById("top").hidden = true;
  const key = el("input", { type: "password", name: "key", autocomplete: "current-password", required: true });
  const problem = el("div", { class: "error", role: "alert", hidden: !words }, typeof words === "string" ? words : "");
  const form = el("form", { class: "card login", onsubmit: async (event) => {
    event.preventDefault();
    try {
      await post("login", { key: key.value });
      await open();
      main.querySelector("h1")?.focus();
    } catch (error) {
      problem.hidden = false;
      problem.textContent = error.message;
      key.select();
    }
  } }, el("h1", {}, "junctor"), el("p", { class: "soft" }, "The dashboard needs the admin key: the one that gateway.admin_key names, or the one in the link that junctor serve printed."), el("label", {}, "Admin key", key), problem, el("button", { type: "submit" }, "Log in"));
  fill(main, form);
  key.focus();
}

function theme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  const button = document.getElementById("theme");
  button.textContent = THEMES[name][0];
  button.setAttribute("aria-label", `Colours: ${THEMES[name][1]}`);
  localStorage.setItem("theme", name);
}

async function start() {
  theme(localStorage.getItem("theme") in THEMES ? localStorage.getItem("theme") : "auto");
  document.getElementById("theme").addEventListener("click", () => {
    const names = Object.keys(THEMES);
    theme(names[(names.indexOf(localStorage.getItem("theme")) + 1) % names.length]);
  });
  document.getElementById("logout").addEventListener("click", async () => {
    await post("logout", {}).catch(() => null);
    login();
  });
  document.getElementById("skip").addEventListener("click", (event) => {
    event.preventDefault();
    main.focus();
  });
  fill(document.getElementById("nav"), Object.entries(PAGES).map(([name, [title]]) => el("li", {}, el("a", { href: `#${name}`, "data-page": name }, title))));
  const given = /^#key=(.+)$/.exec(location.hash);
  if (given) {
    history.replaceState(null, "", "/#overview");
    try {
      await post("login", { key: decodeURIComponent(given[1]) });
    } catch (error) {
      return login(error.message);
    }
  }
  addEventListener("hashchange", async () => {
    const key = /^#key=/.test(location.hash);
    if (key) return location.reload();
    await open();
    main.querySelector("h1")?.focus();
    scrollTo(0, 0);
  });
  return open();
}

start();
