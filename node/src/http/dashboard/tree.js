// Each group as a tree, as far as this node knows it: its parent, itself, its children, and from
// the routes that come up what is below them.

/** Rows `{node, depth, last, link, side}` of a group, from the top down. Pure. */
function treeRows(status, g) {
  const hops = new Map();
  const parents = new Map();
  const addHop = (from, to) => {
    if (from === to || parents.has(to)) return;
    parents.set(to, from);
    hops.set(from, [...(hops.get(from) || []), to]);
  };
  for (const child of g.children) addHop(status.node, child.node);
  if (g.parent) addHop(g.parent.node, status.node);
  for (const [from, list] of Object.entries(g.routes)) for (const to of list) addHop(from, to);
  const links = new Map(g.children.map((c) => [c.node, { link: c, side: "child" }]));
  const rows = [];
  const shown = new Set();
  const walk = (node, lead, turn, on) => {
    if (shown.has(node)) return;
    shown.add(node);
    const below = hops.get(node) || [];
    rows.push({ node, lead: lead + turn, leaf: below.length === 0, ...(links.get(node) || {}) });
    below.forEach((child, i) => {
      const last = i + 1 === below.length;
      walk(child, lead + on, last ? "└─ " : "├─ ", last ? "   " : "│  ");
    });
  };
  const all = [...hops.keys(), status.node];
  for (const root of all.filter((n) => !parents.has(n))) walk(root, "", "", "");
  // Tables may contradict each other for a moment, and make a ring.
  for (const node of all) walk(node, "", "", "");
  return rows;
}

/** Where the page of a neighbour is; null if its address is none. */
function pageAt(addr) {
  if (!/^[A-Za-z0-9.\-[\]:]+:\d+$/.test(addr || "")) return null;
  return `${location.protocol === "https:" ? "https:" : "http:"}//${addr}/dashboard`;
}

/** What reports say of a node further down, for the volumes of the group; the worst of them. */
function reported(status, g, node) {
  const found = [];
  for (const v of status.volumes) {
    if (v.group !== g.group || !v.subtree) continue;
    for (const [name, set, lag, words] of v.subtree.worst) {
      const text = `${v.label} at set ${set}, ${span(lag)} behind${words ? ": " + words : ""}`;
      if (name === node) found.push({ well: !words && lag < FAR, lag, text });
    }
  }
  return found.sort((a, b) => a.well - b.well || b.lag - a.lag)[0];
}

function roleOf(status, g, row) {
  if (row.node === status.node) return g.role;
  if (g.parent && row.node === g.parent.node) return writerOf(status, g) === row.node ? "primary" : "forwarder";
  return row.leaf ? "leaf" : "forwarder";
}

/** The node that writes the group's volumes, from their histories; null: not known here. */
function writerOf(status, g) {
  if (g.role === "primary") return status.node;
  for (const v of status.volumes) {
    if (v.group === g.group && v.history.length) return v.history[v.history.length - 1].opened_by;
  }
  return null;
}

function linkCells(status, g, row, away) {
  const own = row.node === status.node;
  const link = own ? null : (g.parent && g.parent.node === row.node ? g.parent : row.link);
  if (own) return [[pill("here", "this node")], "", ""];
  if (!link) {
    if (away) return [[pill("warning", "cut off"), ` behind ${away}`], "", ""];
    const worst = reported(status, g, row.node);
    if (!worst) return [[pill("", "further down")], "", ""];
    return [[pill(worst.well ? "ok" : "warning", worst.well ? "reports" : "look"), " ", prose(worst.text)], "", ""];
  }
  const since = link.since_us ? between(link.since_us, status.at_us) : "";
  const on = link.state === "connected";
  const words = on ? ` ${since}` : ` ${since ? "for " + since : ""}${link.reason ? ": " + link.reason : ""}`;
  const kind = on ? "ok" : link.state === "connecting" ? "warning" : "alarm";
  const by = [link.transport, on && link.version ? `RCP ${link.version}` : "", on && link.connections || "", link.limit_in_words || ""];
  const speed = counters.get(`link ${g.group} ${link.node}`);
  const sent = `${size(link.bytes)}${on && speed && speed.rate !== null ? `, ${size(speed.rate)}/s` : ""}`;
  return [[pill(kind, on ? "connected" : link.state), prose(words)], by.filter(Boolean).join(", "), sent];
}

function groupCard(status, g) {
  const links = new Map([...g.children, ...(g.parent ? [g.parent] : [])].map((l) => [l.node, l]));
  const awayAbove = new Map();
  const rows = treeRows(status, g);
  const stack = [];
  const cells = rows.map((row) => {
    const depth = row.lead.length / 3;
    stack.length = depth;
    const above = stack[depth - 1];
    const down = row.link && row.link.state !== "connected" ? row.node : null;
    awayAbove.set(row.node, down || awayAbove.get(above) || null);
    stack[depth] = row.node;
    const link = links.get(row.node);
    const to = link && pageAt(link.addr);
    const name = to ? el("a", { href: to }, row.node) : row.node === status.node ? el("b", {}, row.node) : row.node;
    const [state, by, bytes] = linkCells(status, g, row, awayAbove.get(above));
    return [[el("span", { class: "lead", "aria-hidden": "true" }, row.lead), name], roleOf(status, g, row), state, by, bytes];
  });
  const writer = writerOf(status, g);
  const further = writer && !rows.some((r) => r.node === writer) ? ` The writer is ${writer}, further up.` : "";
  const now = status.at_us / 1e6;
  const plots = [];
  if (g.parent) plots.push(plot(`in ${g.group}`, "Received from the parent", now, (v) => size(v) + "/s", 1024));
  if (g.children.length) plots.push(plot(`out ${g.group}`, "Sent to children", now, (v) => size(v) + "/s", 1024));
  return el("section", { class: "card", key: `group ${g.group}` },
    el("h2", {}, `Group ${g.group}`),
    el("div", { class: "scroll" }, table(`The tree, as ${status.node} knows it.${further}`, ["Node", "Role", "Link", "By", "Bytes"], cells)),
    el("div", { class: "plots" }, plots));
}

/** Looks at the links' counters, once per answer. */
function sampleLinks(status, g) {
  const at = status.at_us / 1e6;
  const speed = (link) => rate(`link ${g.group} ${link.node}`, at, link.bytes);
  if (g.parent) sample(`in ${g.group}`, at, speed(g.parent));
  const out = g.children.map(speed).filter((r) => r !== null);
  if (g.children.length) sample(`out ${g.group}`, at, out.length ? out.reduce((a, b) => a + b, 0) : null);
}
