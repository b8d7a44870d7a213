// Elements from data. Whatever comes from outside is put in as text, never as markup.

function build(node, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value") node.value = value;
    else if (name === "share") node.style.setProperty("--share", value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(3)) {
    if (child === undefined || child === null || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return node;
}

export const el = (tag, props, ...children) => build(document.createElement(tag), props, children);
export const svg = (tag, props, ...children) => build(document.createElementNS("http://www.w3.org/2000/svg", tag), props, children);

export function fill(node, ...children) {
  node.replaceChildren(...children.flat(3).filter((c) => c !== undefined && c !== null && c !== false));
  return node;
}

export function head(title, words, ...tools) {
  return el("div", { class: "head" }, el("div", {}, el("h1", { tabindex: -1 }, title), el("p", {}, words)), el("div", { class: "row" }, tools));
}

export function empty(title, words, code) {
  return el("div", { class: "card empty" }, el("b", {}, title), el("p", {}, words), code && el("pre", {}, code));
}

let tables = 0;

// columns: [title, cell, numeric?]; the first cell of a row is its header
export function table(caption, columns, rows, mark) {
  const heads = columns.map(([title, , n]) => el("th", { scope: "col", class: n && "n" }, title));
  const body = rows.map((row) =>
    el("tr", { class: mark?.(row) && "chosen" }, columns.map(([, cell, n], i) => (i ? el("td", { class: n && "n" }, cell(row)) : el("th", { scope: "row" }, cell(row))))),
  );
  const id = `table-${++tables}`;
  const figures = el("table", { "aria-labelledby": id }, el("thead", {}, el("tr", {}, heads)), el("tbody", {}, body));
  return el("div", {}, el("div", { class: "caption", id }, caption), el("div", { class: "scroll" }, figures));
}

export const facts = (pairs) =>
  el("dl", { class: "facts" }, pairs.filter(([, v]) => v !== null && v !== undefined && v !== "").map(([k, v]) => el("div", {}, el("dt", {}, k), el("dd", {}, v))));

export function bar(name, share, words) {
  const width = Number.isFinite(share) ? Math.max(0, Math.min(1, share)) : 0;
  return el("div", { class: "bar" }, el("span", { title: name }, name), el("span", { class: "track", "aria-hidden": "true" }, el("i", { share: width })), el("span", {}, words));
}
