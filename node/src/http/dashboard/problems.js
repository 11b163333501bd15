// What is wrong, the worst first, each with what to do. Pure: from the status to a list of
// `{key, kind, text, hint}`. `key` names the problem whatever its figures; `kind` is `alarm` (data
// or writers are at risk) or `warning`.

/** As `rcpctl status`: a save volume that is full sooner than this, in seconds, is a problem. */
const FULL_SOON = 3600;
const FULL_NOW = 300;
/** One that is filled to this part is almost full. */
const ALMOST = 0.9;
/** A replica that is further behind than this, in seconds, is a problem; and an alarm. */
const FAR = 60;
const TOO_FAR = 900;
/** Waiting so long for something that exists, in microseconds, is a problem. */
const LATE = 10e6;

function problemsOf(status) {
  const found = [];
  const add = (kind, key, text, hint) => found.push({ kind, key, text, hint: hint || "" });
  // What is away is often why something else is behind.
  for (const g of status.groups) ofLinks(status, g, add);
  for (const v of status.volumes) ofVolume(status, v, add);
  ofSecurity(status, add);
  for (const g of status.groups) ofRoutes(g, add);
  const rank = (p) => (p.kind === "alarm" ? 0 : 1);
  return found.map((p, i) => [p, i]).sort((a, b) => rank(a[0]) - rank(b[0]) || a[1] - b[1]).map(([p]) => p);
}

function ofVolume(status, v, add) {
  const key = (what) => `${what} ${v.id}`;
  const name = typed(v.label, "VOLUME");
  const state = firstWord(v.state);
  const more = `\`rcpctl status ${name}\` has the details.`;
  if (v.split) {
    add("alarm", key("split"), `${v.label} has two writers that did not know of each other: ${v.split}`,
      `Nothing is merged or discarded by itself. Keep clients away from one of them; \`rcpctl history ${name}\` shows where the lines fork.`);
  }
  if (v.differs !== null && v.differs !== undefined) {
    add("alarm", key("differs"), `${v.label} differs here from the primary since set ${v.differs}: it is not served`,
      `The primary and the other replicas are not touched. It is compared with its parent, and what differs is fetched again; \`rcpctl verify ${name}\` compares all.`);
  }
  if (v.fenced) {
    add("alarm", key("fenced"), `${v.label} is held here and nobody may write${because("fenced", v.fenced)}`,
      `\`rcpctl failover ${name} --plan\` shows who is the writer and changes nothing.`);
  }
  if (v.promoting) {
    add("warning", key("promoting"), `${v.label} is being promoted${because(v.state, (v.reason || "").replace("is being promoted: ", ""))}`,
      "Until its line is open this node is not the writer; if that fails, it stays a replica.");
  }
  if (v.handed_over) {
    add("warning", key("handed"), `${v.label} was handed over to ${v.handed_over.to} at set ${v.handed_over.set}, and nobody has taken over yet`,
      `\`rcpctl failover ${name} --plan\` shows what is missing.`);
  }
  if (state === "failed") {
    add("alarm", key("failed"), `${v.label} has failed${because(v.state, v.reason)}`,
      "It was closed rather than served wrong; other volumes go on. Look at the disk first.");
  } else if (v.reason && !v.fenced && !v.promoting && !v.split && (v.differs === null || v.differs === undefined)) {
    add(v.role === "primary" ? "alarm" : "warning", key("reason"), `${v.label} is ${v.state}${because(v.state, v.reason)}`, more);
  }
  if (isLate(v.delayed, status.at_us)) {
    add("warning", key("delayed"), `${v.label} is behind here for ${between(v.delayed.since_us, status.at_us)}: ${v.delayed.text}`, more);
  }
  if (v.stalled && v.stalled !== v.reason) add("alarm", key("stalled"), `${v.label} stands still: ${v.stalled}`, more);
  if (!v.replicating && state !== "failed") {
    add("warning", key("stopped"), `${v.label} is not replicated from here: it was stopped, or did not start by itself`,
      `\`rcpctl replicate start ${name}\` starts it.`);
  }
  if (v.damaged_blocks > 0) {
    add("warning", key("damaged"), `${v.label}: ${plural(v.damaged_blocks, "stored block")} turned out damaged since the node was started`,
      "Damaged blocks are not served; at a replica they are fetched again from the parent. Look at the disk.");
  }
  if (fillsUp(v) && v.save_full_in_seconds < FULL_SOON) {
    add(v.save_full_in_seconds < FULL_NOW && v.save_used >= v.save_capacity * ALMOST ? "alarm" : "warning", key("full"),
      `${v.label}: its save volume is full in ${span(v.save_full_in_seconds)}`,
      "Then the child that is furthest behind is detached, and caught up when it is back; with `on_full: suspend` writes wait for it first.");
  }
  ofLag(status, v, add, key, name);
  for (const c of v.children) ofChild(status, v, c, add);
}

/** Somebody holds up what is in the save volume. What nobody waits for goes when room is wanted. */
function fillsUp(v) {
  const filled = v.save_used >= v.save_capacity / 4;
  const waited = Math.max(v.lag_bytes, ...v.children.map((c) => c.behind_bytes));
  return v.save_full_in_seconds !== null && filled && waited >= v.save_used / 4;
}

/** `: the disk is full`, without repeating the state that stands before it. */
function because(state, reason) {
  if (!reason) return "";
  const first = `${firstWord(state)}: `;
  return `: ${reason.startsWith(first) ? reason.slice(first.length) : reason}`;
}

function ofLag(status, v, add, key, name) {
  const says = `If the primary died now, that much would be lost there. \`rcpctl why ${name}\` names what to mend first.`;
  const kind = (lag) => (lag >= TOO_FAR ? "alarm" : "warning");
  if (v.role === "replica" && v.lag_seconds === null && firstWord(v.state) !== "failed") {
    add("warning", key("unknown"), `${v.label}: this replica has not heard how far the primary is`,
      `\`rcpctl status ${name}\` names the first hop that is missing.`);
  }
  if (v.role === "replica" && v.lag_seconds >= FAR) {
    add(kind(v.lag_seconds), key("lag"), `${v.label} on this node is ${span(v.lag_seconds)} behind${because(v.state, v.reason)}`, says);
  }
  // Those that are behind for the same reason are told together, unless a link that is away is it.
  const group = status.groups.find((g) => g.group === v.group) || { children: [] };
  const away = group.children.filter((c) => c.state !== "connected").map((c) => c.node);
  const together = new Map();
  for (const [node, , lag, words] of v.subtree ? v.subtree.worst : []) {
    const told = away.some((a) => a === node || words.includes(`\`${a}\``));
    if (lag < FAR && (!words || told)) continue;
    const same = together.get(words) || { nodes: [], lag: 0 };
    together.set(words, { nodes: [...same.nodes, node], lag: Math.max(same.lag, lag) });
  }
  for (const [words, { nodes, lag }] of together) {
    add(kind(lag), `${key("lag")} ${nodes.join(" ")}`,
      `${v.label} on ${nodes.join(", ")} is ${nodes.length > 1 ? "up to " : ""}${span(lag)} behind${words ? ": " + words : ""}`, lag < FAR ? "" : says);
  }
}

/** What lasts is a problem, unless somebody wanted it so. As `rcpctl status`. */
function isLate(delayed, now) {
  return Boolean(delayed) && !["playback", "limit"].includes(delayed.cause) && now - delayed.since_us >= LATE;
}

/** One that has everything lacks nothing, whatever it was that it waited for. */
function reasonOf(c) {
  return c.state === "streaming" && c.behind_bytes === 0 ? "" : c.reason || "";
}

/** Why a child is behind. */
function whyBehind(c) {
  const reason = reasonOf(c);
  // A limit is told as the reason already.
  const delayed = c.delayed && !reason.includes(c.delayed.text) ? c.delayed.text : "";
  return [reason, delayed].filter(Boolean).join("; ");
}

function ofChild(status, v, c, add) {
  const key = `child ${v.id} ${c.node}`;
  // An offline child's link is told already; that a limit holds it back was chosen.
  const chosen = c.state === "streaming" && c.reason && c.reason.startsWith("limited");
  if (c.state === "detached") {
    add("warning", key, `${v.label}: ${c.node} is detached${because(c.state, c.reason)}`,
      "It comes back by itself, by the blocks that changed meanwhile; until then its replica is old.");
  } else if (isLate(c.delayed, status.at_us)) {
    add("warning", key, `${v.label}: ${c.node} is behind for ${between(c.delayed.since_us, status.at_us)}: ${c.delayed.text}`);
  } else if (reasonOf(c) && c.state !== "offline" && !chosen) {
    add("warning", key, `${v.label}: ${c.node} is ${c.state}${because(c.state, c.reason)}`);
  }
}

function ofSecurity(status, add) {
  const s = status.security;
  const node = typed(status.node, "NODE");
  if (s.plaintext) {
    add("alarm", "plaintext", "Sessions without certificates are taken from anywhere (insecure_plaintext): whoever reaches this port can feed this node, and read along",
      "Give the topology `pki:` and take `insecure_plaintext` out.");
  }
  if (s.problem) add("warning", "certificate", s.problem, "The node goes on with the certificates that it has.");
  if (s.certificate_until_us) {
    const left = s.certificate_until_us - status.at_us;
    const renew = `\`rcpctl pki renew ${node}\`, and bring the files to the node: it takes them by itself.`;
    if (left <= 0) add("alarm", "certificate end", `The certificate of this node ended ${between(s.certificate_until_us, status.at_us)} ago: nobody talks to it`, renew);
    else if (left < 3 * 86400e6) add("warning", "certificate end", `The certificate of this node ends in ${between(status.at_us, s.certificate_until_us)}`, renew);
  }
}

function ofLinks(status, g, add) {
  const away = (side, link) => {
    if (link.state === "connected") return;
    const since = link.since_us ? ` for ${between(link.since_us, status.at_us)}` : "";
    const hint = side === "child"
      ? "What it misses is kept for it, as long as the save volume has room."
      : "This replica goes on serving the state that it has.";
    add("warning", `link ${g.group} ${side} ${link.node}`,
      `${g.group}: ${side} ${link.node} is away (${link.state}${since})${link.reason ? ": " + link.reason : ""}`, hint);
  };
  if (g.parent) away("parent", g.parent);
  for (const child of g.children) away("child", child);
}

function ofRoutes(g, add) {
  g.drift.forEach((words, i) => add("warning", `drift ${g.group} ${i}`,
    `Routes differ from the topology file: ${words}`, "The stored routes rule. `rcproute display` shows them."));
}
