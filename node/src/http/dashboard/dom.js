// Elements. Everything that comes from a node becomes a text node or the value of an attribute that
// is not a script: nothing here parses HTML, and the page's policy forbids it.

const SVG = "http://www.w3.org/2000/svg";
const ATTRIBUTES = /^(?:class|id|href|title|scope|colspan|role|for|aria-[a-z]+|data-[a-z]+|viewBox|preserveAspectRatio|d|x|y|width|height|rx|open|key)$/;

function grown(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (!ATTRIBUTES.test(name)) throw new Error(`no attribute ${name}`);
    if (value !== null && value !== undefined && value !== false) {
      node.setAttribute(name, value === true ? "" : tame(value));
    }
  }
  for (const child of children.flat(3)) {
    if (child === null || child === undefined || child === false || child === "") continue;
    node.appendChild(typeof child === "object" ? child : document.createTextNode(tame(child)));
  }
  return node;
}

function el(tag, attributes, ...children) {
  return grown(document.createElement(tag), attributes, children);
}

function drawn(tag, attributes, ...children) {
  return grown(document.createElementNS(SVG, tag), attributes, children);
}

/** A command to type. */
function command(text) {
  return el("code", {}, text);
}

/** Text in which what stands between backticks is to be typed. */
function prose(text) {
  return String(text).split("`").map((part, i) => (i % 2 ? command(part) : part));
}

function pill(kind, text) {
  return el("span", { class: `pill ${kind}` }, text);
}

/** Columns whose text may be broken into lines. */
const WIDE = ["Why", "Link", "By", "Claims to be"];

/** A table. Its roles are written out, since on a narrow page its rows are laid out as blocks. */
function table(caption, headings, rows) {
  const head = headings.map((h) => el("th", { scope: "col", role: "columnheader" }, h));
  const cell = (what, i) => (i === 0
    ? el("th", { scope: "row", role: "rowheader" }, what)
    : el("td", { role: "cell", "data-head": headings[i], class: WIDE.includes(headings[i]) && "wide" }, held(what)));
  return el("table", { role: "table" },
    el("caption", {}, caption),
    el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, head)),
    el("tbody", { role: "rowgroup" }, rows.map((cells) => el("tr", { role: "row" }, cells.map(cell)))));
}

/** What is in a cell, as one thing; nothing at all if there is nothing. */
function held(cell) {
  const parts = [cell].flat(3).filter((part) => part !== "" && part !== null && part !== undefined);
  return parts.length ? el("span", {}, parts) : null;
}

/** Makes `old` like `fresh` in place, so that focus, selection and what is folded out stay. */
function morph(old, fresh) {
  for (const { name } of Array.from(old.attributes)) {
    if (name !== "open" && !fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of Array.from(fresh.attributes)) {
    if (name !== "open" && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  const before = Array.from(old.childNodes);
  const after = Array.from(fresh.childNodes);
  after.forEach((next, i) => {
    const now = before[i];
    if (!now) {
      old.appendChild(next);
    } else if (!alike(now, next)) {
      old.replaceChild(next, now);
    } else if (now.nodeType === 3) {
      if (now.data !== next.data) now.data = next.data;
    } else {
      morph(now, next);
    }
  });
  for (const gone of before.slice(after.length)) old.removeChild(gone);
}

function alike(a, b) {
  if (a.nodeType !== b.nodeType || a.nodeName !== b.nodeName) return false;
  return a.nodeType === 3 || a.getAttribute("key") === b.getAttribute("key");
}

/** Puts these children, and no others, into an element of the page. */
function fill(id, ...children) {
  const place = document.getElementById(id);
  const fresh = place.cloneNode(false);
  morph(place, grown(fresh, {}, children));
}
