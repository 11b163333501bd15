// Run by the tests beside this file: `node tests.js < {"page":…, "full":…, "hostile":…}`. The page's
// script runs over a small DOM that knows no HTML, a clock that stands, and a node that is made up.
"use strict";
const assert = require("node:assert");
const fs = require("node:fs");
const vm = require("node:vm");

class Text {
  constructor(data) { this.nodeType = 3; this.nodeName = "#text"; this.data = data; }
  get textContent() { return this.data; }
}

class Element {
  constructor(name) { Object.assign(this, { nodeType: 1, nodeName: name, named: new Map(), childNodes: [], heard: {}, hidden: false, value: "" }); }
  get attributes() { return [...this.named].map(([name, value]) => ({ name, value })); }
  getAttribute(name) { return this.named.has(name) ? this.named.get(name) : null; }
  hasAttribute(name) { return this.named.has(name); }
  removeAttribute(name) { this.named.delete(name); }
  setAttribute(name, value) {
    assert(!/^(on|style|srcdoc)/.test(name), `attribute ${name}`);
    if (name === "href") assert(/^https?:\/\/[\w.:[\]-]+\/dashboard$/.test(value), value);
    assert(!/NaN|undefined|null/.test(value), `${name}="${value}"`);
    this.named.set(name, String(value));
  }
  appendChild(node) { this.childNodes.push(node); return node; }
  replaceChild(fresh, old) { this.childNodes[this.childNodes.indexOf(old)] = fresh; }
  removeChild(old) { this.childNodes.splice(this.childNodes.indexOf(old), 1); }
  cloneNode() { const c = new Element(this.nodeName); for (const [k, v] of this.named) c.named.set(k, v); return c; }
  get textContent() { return this.childNodes.map((n) => n.textContent).join(""); }
  set textContent(text) { this.childNodes = [new Text(text)]; }
  get className() { return this.getAttribute("class") || ""; }
  set className(text) { this.named.set("class", text); }
  set innerHTML(_) { throw new Error("innerHTML"); }
  set outerHTML(_) { throw new Error("outerHTML"); }
  focus() { this.focused = true; }
  addEventListener(what, f) { this.heard[what] = f; }
}

/** What the API does not have cannot be read. */
function strict(value, path) {
  if (value === null || typeof value !== "object") return value;
  if (Array.isArray(value)) return value.map((v, i) => strict(v, `${path}[${i}]`));
  const whole = Object.fromEntries(Object.entries(value).map(([k, v]) => [k, strict(v, `${path}.${k}`)]));
  if (path.endsWith(".routes")) return whole;
  return new Proxy(whole, {
    get(o, name) {
      if (typeof name === "string" && !(name in o) && !["then", "toJSON"].includes(name)) throw new Error(`the status has no ${path}.${name}`);
      return o[name];
    },
  });
}

const input = JSON.parse(fs.readFileSync(0, "utf8"));
const scripts = [...input.page.matchAll(/<script>([^]*?)<\/script>/g)];
assert.equal(scripts.length, 1);

function opened() {
  const ids = new Map();
  const all = [];
  const node = { clock: 0, answers: [], asked: [], timers: [], store: new Map() };
  const make = (name) => { const e = new Element(name); all.push(e); return e; };
  const document = {
    title: "", hidden: false, heard: {},
    createElement: (name) => { assert(/^[a-z0-9]+$/.test(name) && !["script", "img", "iframe"].includes(name), name); return make(name); },
    createElementNS: (space, name) => { assert(space === "http://www.w3.org/2000/svg" && ["svg", "path", "rect"].includes(name)); return make(name); },
    createTextNode: (text) => new Text(text),
    getElementById: (id) => {
      assert(input.page.includes(`id="${id}"`), `the page has no ${id}`);
      if (!ids.has(id)) ids.set(id, new Element("div"));
      return ids.get(id);
    },
    addEventListener: (what, f) => { document.heard[what] = f; },
  };
  const context = vm.createContext({
    document, console, AbortController, URL,
    location: { protocol: "http:" },
    performance: { now: () => node.clock },
    sessionStorage: {
      getItem: (k) => node.store.get(k) || null,
      setItem: (k, v) => node.store.set(k, v),
      removeItem: (k) => node.store.delete(k),
    },
    setTimeout: (f, ms) => { node.timers.push({ f, ms }); return node.timers.length; },
    clearTimeout: (i) => { if (i) node.timers[i - 1].f = null; },
    setInterval: () => 0,
    fetch: async (path, options) => {
      node.asked.push({ path, options });
      const next = node.answers.shift();
      if (!next) throw new TypeError("network");
      return { ok: next.status === 200, status: next.status, json: async () => next.body, text: async () => JSON.stringify(next.body) };
    },
  });
  vm.runInContext(scripts[0][1], context);
  const id = (name) => document.getElementById(name);
  const ask = async (...answers) => { node.answers.push(...answers); await vm.runInContext("askNode()", context); };
  return { node, context, document, id, ask, all, run: (code) => vm.runInContext(code, context) };
}

const later = () => new Promise((done) => setImmediate(done));
const good = (body) => ({ status: 200, body });
const copy = (value) => JSON.parse(JSON.stringify(value));
/** Everything that is said on the page. */
const said = (page) => ["old", "name", "facts", "problems", "groups", "volumes", "strangers"].map((i) => page.id(i).textContent).join("\n");
const find = (node, test, found = []) => {
  if (node.nodeType === 1 && test(node)) found.push(node);
  for (const child of node.childNodes || []) find(child, test, found);
  return found;
};

const tests = {
  async "words are those of rcpctl status"() {
    const { run } = opened();
    await later();
    for (const [seconds, words] of [[0.04, "0 s"], [0.8, "0.8 s"], [12.4, "12 s"], [245, "4 min 5 s"], [3600, "1 h"], [11520, "3 h 12 min"], [187200, "2 d 4 h"], [-1, "?"], [NaN, "?"]]) {
      assert.equal(run(`span(${seconds})`), words);
    }
    for (const [bytes, words] of [[0, "0 B"], [1023, "1023 B"], [1024, "1 KiB"], [1572864, "1.5 MiB"], [1048575, "1023.9 KiB"], [2 ** 50, "1 PiB"]]) {
      assert.equal(run(`size(${bytes})`), words);
    }
    assert.equal(run("pause(120)"), "120 µs");
    assert.equal(run("moment(1795723200000000)"), "2026-11-26 20:00:00 UTC");
  },

  async "every field that is read is one of the API, and all is shown"() {
    const page = opened();
    await later();
    await page.ask(good(strict(input.full, "status")));
    const text = said(page);
    assert.equal(page.run("page.trouble"), "");
    for (const part of ["cel1-ser2", "writable, making set 17", "cel9-ser1", "connection refused", "29 % of 1 GiB",
      "db is behind here for 12 s: the disk takes 2 MiB/s", "cel2-ser2 is behind for 12 s"]) {
      assert(text.includes(part), `${part} is not in\n${text}`);
    }
    assert(page.document.title.startsWith("("), page.document.title);
    assert.equal(page.node.asked[0].path, "/api/v1/status");
    assert.equal(page.node.asked[0].options.headers.Authorization, undefined);
  },

  async "what nodes say stays text"() {
    const page = opened();
    await later();
    await page.ask(good(strict(input.hostile, "status")));
    const text = said(page);
    assert(text.includes("<script>alert(1)</script>"), text);
    assert(text.includes("<img src=x onerror=alert(1)>"), text);
    for (const c of ["\u202e", "\u001b", "\u200b", "\u2028"]) assert(!text.includes(c) && !page.document.title.includes(c), "letters that turn others");
    // A name that is none does not stand in a command, and an address that is none is no link.
    for (const code of find(page.id("problems"), (n) => n.nodeName === "code")) assert(!/[<>;$|&]/.test(code.textContent), code.textContent);
    assert.equal(find(page.id("groups"), (n) => n.nodeName === "a").length, 0);
  },

  async "each trouble is a banner, the worst first"() {
    const page = opened();
    await later();
    const status = copy(input.full);
    const v = status.volumes[0];
    Object.assign(v, { split: "two", fenced: "because", differs: 12, damaged_blocks: 3, replicating: false });
    status.security.plaintext = true;
    const problems = page.run("problemsOf")(status);
    const keys = problems.map((p) => p.key.split(" ")[0]);
    for (const key of ["split", "fenced", "differs", "damaged", "stopped", "plaintext", "link"]) assert(keys.includes(key), `${key} in ${keys}`);
    const kinds = problems.map((p) => p.kind);
    assert.deepEqual(kinds, [...kinds].sort(), "alarms stand before warnings");
    for (const key of ["split", "fenced", "differs", "plaintext"]) assert.equal(problems[keys.indexOf(key)].kind, "alarm", key);
    assert(problems.every((p) => p.text && !/undefined|null|NaN/.test(p.text + p.hint)), JSON.stringify(problems));
    assert.equal(new Set(problems.map((p) => p.key)).size, problems.length, "a key stands twice");
  },

  async "a promotion says once how far it is"() {
    const page = opened();
    await later();
    const status = copy(input.full);
    Object.assign(status.volumes[0], { promoting: true, state: "being promoted", reason: "is being promoted: opens its line" });
    const found = page.run("problemsOf")(status).filter((p) => p.text.includes("promoted"));
    assert.deepEqual(found.map((p) => p.text), [`${status.volumes[0].label} is being promoted: opens its line`]);
  },

  async "who is away, and what is cut off behind it"() {
    const page = opened();
    await later();
    const status = copy(input.full);
    status.groups[0].children[0].state = "waiting";
    await page.ask(good(status));
    const row = find(page.id("groups"), (n) => n.nodeName === "tr" && n.textContent.includes("cel2-ser3"))[0];
    assert(row.textContent.includes("cut off") && row.textContent.includes("behind cel2-ser2"), row.textContent);
  },

  async "a save volume is filling only if somebody is waited for"() {
    const { run } = opened();
    await later();
    const v = copy(input.full).volumes[0];
    assert.equal(run("fillsUp")(v), true, "a child is away");
    v.children.forEach((c) => { c.behind_bytes = 0; });
    v.lag_bytes = 0;
    assert.equal(run("fillsUp")(v), false);
  },

  async "old figures are called old"() {
    const page = opened();
    await later();
    await page.ask(good(input.full));
    assert.equal(page.id("old").hidden, true);
    page.node.clock = 12000;
    await page.ask();
    assert.equal(page.id("old").hidden, false);
    assert(/No answer from cel1-ser2 for 12 s/.test(page.id("old").textContent), page.id("old").textContent);
    assert(page.id("old").textContent.includes("2026-11-26 20:00:00 UTC"));
    assert.equal(page.id("main").className, "stale");
    assert(page.id("said").textContent.includes("No answer"));
    await page.ask({ status: 503, body: { kind: "unavailable", text: "the node did not describe itself within 5 s" } });
    assert(page.id("old").textContent.includes("did not describe itself"));
    await page.ask(good({ ...input.full, at_us: input.full.at_us + 1 }));
    assert.equal(page.id("old").hidden, true);
    assert.equal(page.id("main").className, "");
    // It answers, and its clock stands.
    for (const at of [16000, 20000, 24000, 30000]) {
      page.node.clock = at;
      await page.ask(good({ ...input.full, at_us: input.full.at_us + 1 }));
    }
    assert(/has not looked at its volumes for 18 s/.test(page.id("old").textContent), page.id("old").textContent);
  },

  async "a token is asked for, kept in the tab, and forgotten"() {
    const page = opened();
    await later();
    const no = (status, text) => ({ status, body: { kind: "unauthorized", text } });
    await page.ask(no(401, "this needs the scope `read`: send a token"));
    assert.equal(page.id("ask").hidden, false);
    assert(page.id("ask-why").textContent.includes("for those who show a token"));
    assert(page.id("token").focused);
    page.document.heard.visibilitychange();
    await later();
    assert.equal(page.node.asked.length, 2, "nobody knocks without a token");
    page.node.answers.push(good(input.full));
    page.id("token").value = " rcp_secret ";
    page.id("ask-form").heard.submit({ preventDefault() {} });
    await later();
    await later();
    assert.equal(page.node.asked.at(-1).options.headers.Authorization, "Bearer rcp_secret");
    assert.equal(page.node.asked.at(-1).options.redirect, "error");
    assert.deepEqual([...page.node.store.values()], ["rcp_secret"]);
    assert.equal(page.id("token").value, "");
    assert.equal(page.id("ask").hidden, true);
    assert.equal(page.id("forget").hidden, false);
    assert(!said(page).includes("rcp_secret"));
    await page.ask(no(403, "token x has the scope none"));
    assert(page.id("ask-why").textContent.includes("refused: token x"));
    assert.equal(page.node.store.size, 0);
    assert.equal(page.id("volumes").textContent, "", "what was shown is gone");
  },

  async "only what changed is said aloud"() {
    const page = opened();
    await later();
    await page.ask(good(input.full));
    page.id("said").textContent = "";
    const next = copy(input.full);
    next.at_us += 5000000;
    await page.ask(good(next));
    assert.equal(page.id("said").textContent, "");
    next.volumes[0].split = "two writers";
    await page.ask(good(next));
    assert(page.id("said").textContent.startsWith("New: db has two writers"), page.id("said").textContent);
  },

  async "an answer changes the page in place"() {
    const page = opened();
    await later();
    await page.ask(good(input.full));
    const card = find(page.id("volumes"), (n) => n.nodeName === "details")[0];
    assert(card.hasAttribute("open") && card.childNodes.length > 1, "one volume is folded out");
    card.removeAttribute("open");
    const next = copy(input.full);
    next.at_us += 2000000;
    next.volumes[0].current_set = 4711;
    await page.ask(good(next));
    assert.equal(find(page.id("volumes"), (n) => n.nodeName === "details")[0], card);
    assert(card.textContent.includes("4711") && !card.hasAttribute("open"));
    // What is folded in is not drawn.
    card.open = false;
    page.id("volumes").heard.toggle({ target: card });
    await page.ask(good(next));
    assert.equal(card.childNodes.length, 1);
    card.open = true;
    page.id("volumes").heard.toggle({ target: card });
    assert(card.childNodes.length > 1);
  },

  async "plots have gaps and no nonsense"() {
    const { run } = opened();
    await later();
    run("for (const [at, v] of [[0, 1], [2, 2], [4, null], [6, 3], [8, 1], [60, 5]]) sample('k', at, v)");
    const { line } = run("paths(histories.get('k'), 0, 60, 5, 240, 40)");
    assert.equal((line.match(/M/g) || []).length, 3, line);
    assert(!/NaN|Infinity/.test(line), line);
    assert.equal(run("rate('c', 1, 100)"), null);
    assert.equal(run("rate('c', 3, 300)"), 100);
    assert.equal(run("rate('c', 4, 10)"), null, "a restart");
    run("forgetOld(10000)");
    assert.equal(run("histories.size + counters.size"), 0);
  },
};

(async () => {
  for (const [name, test] of Object.entries(tests)) {
    try {
      await test();
      console.log(`ok: ${name}`);
    } catch (e) {
      console.log(`FAILED: ${name}: ${e.stack}`);
      process.exitCode = 1;
    }
  }
})();
