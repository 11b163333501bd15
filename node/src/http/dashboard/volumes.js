// Each volume: where it stands, how far those below are, what is proven, how full it is.

function stateKind(v) {
  const state = firstWord(v.state);
  if (state === "failed" || v.split || v.fenced || isSet(v.differs)) return "alarm";
  if (v.reason || v.stalled || !["writable", "readable", "mirroring", "forwarding"].includes(state)) return "warning";
  return "ok";
}

function isSet(value) {
  return value !== null && value !== undefined;
}

function lagOf(v) {
  if (v.role === "primary" || v.role === "relay") {
    const lags = (v.subtree ? v.subtree.worst : []).map(([, , lag]) => lag);
    return lags.length ? Math.max(...lags) : null;
  }
  return isSet(v.lag_seconds) ? v.lag_seconds : null;
}

function lagWords(v) {
  if (v.role === "primary" || v.role === "relay") {
    const worst = lagOf(v);
    return worst === null ? "no replica has reported" : `furthest replica ${span(worst)} behind`;
  }
  const bytes = v.outstanding_sets ? `, ${size(v.lag_bytes)} and ${plural(v.outstanding_sets, "set")} to come` : "";
  return v.lag_seconds === null ? `lag unknown${bytes}` : `${span(v.lag_seconds)} behind${bytes}`;
}

/** Whether the content is proven to be the primary's, in words: `[kind, words]`. */
function digestWords(v) {
  if (isSet(v.differs)) return ["alarm", `differs from the primary's since set ${v.differs}; reads are refused`];
  if (v.role === "relay") return ["", "none here: this node only forwards"];
  const own = v.digests.find((d) => d.set === v.current_set);
  if (own) {
    return v.role === "primary"
      ? ["ok", `known for set ${own.set}: ${own.digest}`]
      : ["ok", `equal to the primary's at set ${own.set}: ${own.digest}`];
  }
  if (v.digest_missing) return ["warning", `not known yet: ${v.digest_missing}`];
  return v.current_set === 0 ? ["", "nothing to compare yet"] : ["warning", `not known for set ${v.current_set}`];
}

function blocksWords(v, now) {
  const whole = v.scrubbed_us ? `all looked through ${between(v.scrubbed_us, now)} ago` : "";
  const round = isSet(v.scrub_percent) ? `this round at ${v.scrub_percent} %` : "";
  const damaged = v.damaged_blocks ? `${plural(v.damaged_blocks, "damaged block")} found since the start` : "no damage in what was read";
  return [v.damaged_blocks ? "warning" : "ok", [damaged, whole, round].filter(Boolean).join("; ")];
}

function saveWords(v) {
  if (!v.save_capacity) return "-";
  const percent = Math.floor(v.save_used * 100 / v.save_capacity);
  const full = v.save_full_in_seconds === null ? "not filling"
    : fillsUp(v) ? `full in ${span(v.save_full_in_seconds)} at the present rate`
      : "filling; nobody waits for most of it, and that makes room when it is wanted";
  return `${percent} % of ${size(v.save_capacity)}, ${full}`;
}

function saveKind(v) {
  const part = v.save_capacity ? v.save_used / v.save_capacity : 0;
  const soon = fillsUp(v) && v.save_full_in_seconds < FULL_SOON;
  if (soon && part >= ALMOST && v.save_full_in_seconds < FULL_NOW) return "alarm";
  return soon ? "warning" : "ok";
}

/** Nodes below, those that are fed from here first, then the furthest behind. Pure. */
function belowRows(v) {
  const rows = new Map();
  for (const c of v.children) {
    rows.set(c.node, {
      node: c.node, state: c.state, percent: c.seed_percent, saved: c.saved_set,
      bytes: c.behind_bytes, why: whyBehind(c), visible: null, lag: null,
    });
  }
  for (const [node, set, lag, words] of v.subtree ? v.subtree.worst : []) {
    const row = rows.get(node) || { node, state: "further down", saved: null, bytes: null, why: "" };
    rows.set(node, { ...row, visible: set, lag, why: [row.why, words].filter(Boolean).filter((w, i, all) => all.indexOf(w) === i).join("; ") });
  }
  return [...rows.values()];
}

function childKind(row, newest) {
  if (row.state === "detached" || row.state === "offline" || row.state === "stopped") return "alarm";
  if (row.state === "streaming") return "ok";
  if (row.state === "further down") {
    if (row.why || row.lag >= FAR) return "warning";
    return row.visible < newest ? "" : "ok";
  }
  return "warning";
}

function belowTable(v) {
  const rows = belowRows(v).map((r) => [
    r.node,
    [pill(childKind(r, v.current_set), r.state), isSet(r.percent) ? ` ${number(r.percent)} %` : ""],
    r.visible === null ? "-" : String(r.visible),
    r.saved === null || r.state === "offline" ? "-" : String(r.saved),
    r.lag === null ? "-" : span(r.lag),
    r.bytes === null ? "-" : size(r.bytes),
    r.why ? prose(r.why) : "-",
  ]);
  if (!rows.length) return null;
  return el("div", { class: "scroll" }, table(belowWords(v), ["Replica or hop", "State", "Shows set", "Has saved", "Lag", "To acknowledge", "Why"], rows));
}

function belowWords(v) {
  if (!v.subtree) return "Below: nothing has been reported yet.";
  const by = v.subtree.by_state.map(([set, n]) => `${n} at set ${set}`).join(", ");
  const listed = v.subtree.worst.length;
  const part = listed < v.subtree.nodes ? ` Listed: the ${listed} furthest behind.` : "";
  return `Below: ${plural(v.subtree.nodes, "replica")}${by ? ` (${by})` : ""}; all have set ${v.subtree.saved_min} saved.${part}`;
}

function facts(rows) {
  return el("dl", {}, rows.filter((r) => r).map(([name, ...words]) => el("div", {}, el("dt", {}, name), el("dd", {}, words))));
}

function volumeFacts(status, v) {
  const now = status.at_us;
  const cut = v.current_cut_us ? `, cut ${moment(v.current_cut_us)} (${between(v.current_cut_us, now)} ago)` : "";
  const writer = v.history.length ? v.history[v.history.length - 1].opened_by : "";
  const primary = v.role === "primary";
  const [digestKind, digest] = digestWords(v);
  const [blocksKind, blocks] = blocksWords(v, now);
  return facts([
    ["Current set", `${v.current_set}${cut}`],
    ["Generation", `${v.generation || "none yet"}${writer ? `, writer ${writer}` : ""}`],
    ["Lag", lagWords(v)],
    v.role !== "primary" && ["Sets", `newest known ${v.newest_known_set}, saved ${v.saved_set}, merged ${v.merged_set}`],
    ["Save volume", bar(v.save_capacity ? v.save_used / v.save_capacity : 0, saveKind(v)), saveWords(v)],
    ["Digest", digestKind ? mark(digestKind) : "", el("span", { class: "hash" }, digest)],
    v.role !== "relay" && ["Stored blocks", mark(blocksKind), blocks],
    primary && ["Modified", `${size(v.dirty_bytes)} since the last cut; longest pause of writers ${pause(v.longest_pause_us)}`],
    ["Size", `${size(v.size)} in blocks of ${size(v.block_size)}`],
    v.kept.length > 0 && ["Kept states", v.kept.map((s) => `${v.label}@${s}`).join(", ")],
    v.seed_sent + v.catch_up_sent > 0 && ["Sent beside sets", `${size(v.seed_sent)} by seeds, ${size(v.catch_up_sent)} by catch-ups`],
  ]);
}

function pause(us) {
  if (us < 1000) return `${us} µs`;
  return us < 1e6 ? `${number(us / 1000)} ms` : span(us / 1e6);
}

function mark(kind) {
  const signs = { ok: "✓", warning: "▲", alarm: "✕" };
  const words = { ok: "good: ", warning: "look: ", alarm: "bad: " };
  return [el("span", { class: `mark ${kind}`, "aria-hidden": "true" }, signs[kind]), el("span", { class: "unseen" }, words[kind])];
}

function setsTable(v) {
  if (!v.sets.length) return null;
  const rows = v.sets.slice(0, 12).map((s) => [
    String(s.set), moment(s.created_us), String(s.blocks),
    isSet(s.made_in) ? span(s.made_in) : "-",
    isSet(s.played_us) ? moment(s.played_us) : "-",
    isSet(s.group) ? String(s.group) : "-",
  ]);
  return el("details", { key: "sets" }, el("summary", {}, "Delta sets"),
    el("div", { class: "scroll" }, table("The newest, as this node has them.", ["Set", "Cut", "Blocks", "Made in", "Shown", "Sets at once"], rows)));
}

function writersTable(v) {
  if (v.history.length < 2 && !v.rival.length) return null;
  const row = (words) => (h) => [h.generation, h.opened_by, String(h.forked_from), moment(h.opened_at_us), words];
  const rows = [...v.history.map(row("")), ...v.rival.map(row("contradicts"))];
  return el("details", { key: "writers" }, el("summary", {}, "Writers"),
    el("div", { class: "scroll" }, table("Who wrote, oldest first.", ["Generation", "Node", "Goes on from set", "Since", ""], rows)));
}

/** Volumes that the reader has folded out (true) or in. */
const folded = new Map();

/** A volume. It is folded out if `open` at first, afterwards as the reader wants it; what is folded
 * in is not drawn, since there may be a thousand. */
function volumeCard(status, v, open) {
  const key = `volume ${v.id} ${v.group}`;
  const called = v.source ? `${v.label} (${v.source} in the group)` : v.label;
  const shown = folded.has(key) ? folded.get(key) : open;
  return el("details", { class: "card volume", key, open: shown },
    el("summary", {}, el("h3", {}, called), " ", pill("", v.role), " ", pill(stateKind(v), v.state), " ",
      el("span", { class: "gist" }, `set ${v.current_set}, ${lagWords(v)}`)),
    shown && volumeBody(status, v));
}

function volumeBody(status, v) {
  const now = status.at_us / 1e6;
  const plots = [plot(`lag ${v.id}`, v.role === "replica" ? "Lag" : "Furthest lag below", now, span, 10),
    plot(`save ${v.id}`, "Save volume", now, size, Math.max(v.save_capacity / 20, 1))];
  if (v.children.length) plots.unshift(plot(`sent ${v.id}`, "Sent", now, (b) => size(b) + "/s", 1024));
  return [
    v.reason && el("p", { class: "why" }, "Why: ", prose(v.reason)),
    v.delayed && el("p", { class: "why" }, `Behind for ${between(v.delayed.since_us, status.at_us)}: `, prose(v.delayed.text)),
    el("div", { class: "plots" }, plots),
    volumeFacts(status, v),
    belowTable(v),
    setsTable(v),
    writersTable(v),
  ];
}

/** The reader folds a volume out or in. */
function foldedByHand(event) {
  const key = event.target.getAttribute("key") || "";
  if (!key.startsWith("volume ")) return;
  folded.set(key, event.target.open);
  if (event.target.open && event.target.childNodes.length < 2 && page.status) draw(page.status);
}

/** Looks at a volume's figures, once per answer. */
function sampleVolume(status, v) {
  const at = status.at_us / 1e6;
  sample(`lag ${v.id}`, at, lagOf(v));
  sample(`save ${v.id}`, at, v.save_used);
  sample(`sent ${v.id}`, at, v.transfer_rate[0] * v.block_size);
}
