// The page as a whole: what is drawn from an answer, and what is said when none comes.

const STATUS = "/api/v1/status";
const KEY = "rcp token";
/** Asked so often, in milliseconds; the answer begins and has come within; old so long after that. */
const EVERY = 2000;
const PATIENCE = 5000;
const WHOLE = 15000;
const OLD = 4000;
/** A node whose own clock stands still for so long does not look at its volumes. */
const STILL = 15000;
/** With more volumes than this, they are folded in at first. */
const MANY = 6;
/** Problems that are listed, and said aloud at a time. */
const LISTED = 40;
const ALOUD = 3;

const page = { status: null, at: 0, moved: 0, trouble: "", asking: false, wants: false, known: null, timer: 0, pace: EVERY };

function token() {
  try {
    return sessionStorage.getItem(KEY) || "";
  } catch {
    return page.token || "";
  }
}

function keepToken(secret) {
  page.token = secret;
  try {
    if (secret) sessionStorage.setItem(KEY, secret);
    else sessionStorage.removeItem(KEY);
  } catch {
    // The browser keeps nothing: it is known until the page is loaded again.
  }
}

/** The words of a refusal, which the API sends as JSON. */
async function refusal(response) {
  const text = await response.text();
  try {
    return JSON.parse(text).text || text;
  } catch {
    return text || `HTTP ${response.status}`;
  }
}

/** The node's status; null if there is none, and `page` says why. */
async function fetched() {
  const patience = new AbortController();
  let alarm = setTimeout(() => patience.abort(), PATIENCE);
  try {
    const secret = token();
    const headers = secret ? { Authorization: `Bearer ${secret}` } : {};
    const response = await fetch(STATUS, { headers, cache: "no-store", redirect: "error", signal: patience.signal });
    clearTimeout(alarm);
    alarm = setTimeout(() => patience.abort(), WHOLE);
    if (response.ok) return await response.json();
    const words = await refusal(response);
    if (response.status === 401 || response.status === 403) askForToken(words, secret !== "");
    else page.trouble = words;
  } catch (e) {
    page.trouble = patience.signal.aborted ? "it takes too long to answer"
      : e instanceof SyntaxError ? "it answered with something that is not its status"
        : "it cannot be reached: it is down, or the way to it is";
  } finally {
    clearTimeout(alarm);
  }
  return null;
}

/** One question and what follows from its answer. */
async function askNode() {
  if (page.asking) return;
  page.asking = true;
  const began = performance.now();
  const status = await fetched();
  try {
    if (status) answered(status);
  } catch (e) {
    // A fault of this page must not look like one of the node, nor like good news.
    console.error(e);
    page.trouble = `this page cannot show its answer (${e.message}): use rcpctl status`;
  }
  page.asking = false;
  freshness();
  // Who waits for a token does not knock meanwhile. A node with very many volumes is asked less often.
  page.pace = Math.max(EVERY, status ? Math.min(5 * (performance.now() - began), 2 * WHOLE) : 0);
  if (!page.wants) page.timer = setTimeout(askNode, page.pace);
}

function askNow() {
  clearTimeout(page.timer);
  if (!page.wants || token()) askNode();
}

function answered(status) {
  const now = performance.now();
  if (!page.status || page.status.at_us !== status.at_us) page.moved = now;
  page.wants = false;
  document.getElementById("ask").hidden = true;
  document.getElementById("forget").hidden = token() === "";
  for (const g of status.groups) sampleLinks(status, g);
  for (const v of status.volumes) sampleVolume(status, v);
  forgetOld(status.at_us / 1e6);
  draw(status);
  page.status = status;
  page.at = now;
  page.trouble = "";
}

function draw(status) {
  const problems = problemsOf(status);
  document.title = `${problems.length ? `(${problems.length}) ` : ""}${tame(status.node)} – rcp`;
  fill("name", status.node);
  fill("facts", nodeFacts(status));
  fill("problems", verdict(status, problems));
  fill("groups", status.groups.map((g) => groupCard(status, g)));
  const few = status.volumes.length <= MANY;
  fill("volumes", el("h2", {}, plural(status.volumes.length, "volume")),
    status.volumes.map((v) => volumeCard(status, v, few)));
  fill("strangers", strangers(status));
  say(problems);
}

function nodeFacts(status) {
  const s = status.security;
  const proof = s.proven ? "with certificates" : "without certificates";
  // Sockets in the data folder are of use on that machine only, where rcpctl shows them.
  const nbd = status.nbd.filter((uri) => !uri.startsWith("nbd+unix:"));
  return [`up ${between(status.started_us, status.at_us)}`, `rcpd ${status.version}`, status.listen, proof, ...nbd].join(" · ");
}

function verdict(status, problems) {
  if (!problems.length) return el("p", { class: "banner good", key: "good" }, mark("ok"), "No problems seen from this node.");
  const more = problems.length - LISTED;
  return [
    el("h2", {}, plural(problems.length, "problem")),
    more > 0 && el("p", {}, `The worst ${LISTED} are listed.`),
    el("ul", { class: "plain" }, problems.slice(0, LISTED).map((p) => el("li", { class: `banner ${p.kind}`, key: p.key },
      mark(p.kind), el("span", { class: "text" }, prose(p.text)), p.hint && el("span", { class: "hint" }, prose(p.hint))))),
  ];
}

function strangers(status) {
  const list = status.security.strangers;
  if (!list.length) return null;
  const rows = list.map((x) => [x.from, x.claims || "-", x.why, String(x.times), `${between(x.last_us, status.at_us)} ago`]);
  return el("details", { class: "card", key: "strangers" }, el("summary", {}, el("h2", {}, `Turned away lately: ${list.length}`)),
    el("div", { class: "scroll" }, table("Peers that were refused here, or that refused this node.", ["From", "Claims to be", "Why", "Times", "Last"], rows)));
}

/** Says aloud what is new and what is gone, and nothing twice. */
function say(problems) {
  const now = new Map(problems.map((p) => [p.key, p.text]));
  const before = page.known;
  page.known = now;
  const said = [];
  if (!before) said.push(problems.length ? `${plural(problems.length, "problem")}. ${problems[0].text}` : "No problems.");
  else {
    const fresh = [...now.keys()].filter((key) => !before.has(key));
    for (const key of fresh.slice(0, ALOUD)) said.push(`New: ${now.get(key)}`);
    if (fresh.length > ALOUD) said.push(`${fresh.length - ALOUD} more are new`);
    const gone = [...before.keys()].filter((key) => !now.has(key)).length;
    if (gone) said.push(now.size ? `${plural(gone, "problem")} gone, ${now.size} left.` : "All problems are gone.");
  }
  if (said.length) aloud(said.join(". "));
}

function aloud(text) {
  document.getElementById("said").textContent = tame(text);
}

/** How old what is shown is, and why: every second. */
function freshness() {
  const now = performance.now();
  const age = now - page.at;
  const old = Boolean(page.status) && age > page.pace + OLD;
  const never = !page.status && page.trouble !== "";
  const still = Boolean(page.status) && !old && now - page.moved > STILL + page.pace;
  const state = page.wants ? "wants" : old || never ? "gone" : still ? "still" : page.status ? "now" : "waiting";
  const words = {
    wants: "waiting for a token",
    gone: page.status ? `No answer for ${span(Math.round(age / 1000))}` : "No answer",
    still: "it stands still",
    now: `true ${age < 1500 ? "now" : span(Math.round(age / 1000)) + " ago"}`,
    waiting: "asking the node …",
  }[state];
  const fresh = document.getElementById("fresh");
  if (fresh.className !== `fresh ${state}`) {
    fresh.className = `fresh ${state}`;
    if (state === "gone") aloud("No answer from this node.");
    if (state === "still") aloud("The node stands still.");
  }
  fill("fresh-words", words);
  document.getElementById("main").className = state === "gone" || state === "still" ? "stale" : "";
  oldBanner(state, age, now);
}

function oldBanner(state, age, now) {
  const banner = document.getElementById("old");
  banner.hidden = state !== "gone" && state !== "still";
  if (banner.hidden) return;
  const name = page.status ? page.status.node : "this node";
  if (state === "still") {
    fill("old", mark("alarm"), el("span", { class: "text" }, `${name} answers, but has not looked at its volumes for ${span(Math.round((now - page.moved) / 1000))}`),
      el("span", { class: "hint" }, "A disk that hangs, or a fault of the program. See the kernel's log for I/O that is stuck, then restart the node."));
    return;
  }
  const since = page.status ? ` for ${span(Math.round(age / 1000))}: ` : ": ";
  const shown = page.status ? `What is below was true at ${moment(page.status.at_us)}. ` : "";
  fill("old", mark("alarm"), el("span", { class: "text" }, `No answer from ${name}${since}${page.trouble || "the last question is still open"}`),
    el("span", { class: "hint" }, shown, "It is asked again every few seconds. What it feeds gets nothing while it is down, and goes on where it was; other nodes' pages show them."));
}

function askForToken(words, had) {
  if (!page.wants) {
    page.wants = true;
    page.status = null;
    page.known = null;
    for (const id of ["problems", "groups", "volumes", "strangers", "facts"]) fill(id);
    document.getElementById("forget").hidden = true;
    document.getElementById("ask").hidden = false;
    document.getElementById("token").focus();
  }
  page.trouble = "";
  if (had) keepToken("");
  fill("ask-why", had ? prose(`The token was refused: ${words}`) : "What it knows is for those who show a token.");
  if (had) aloud(`The token was refused: ${words}`);
}

function tokenGiven(event) {
  event.preventDefault();
  const field = document.getElementById("token");
  const secret = field.value.trim();
  field.value = "";
  // What is no token cannot be sent either.
  if (!/^[\x21-\x7e]{1,256}$/.test(secret)) {
    fill("ask-why", "That is no token: it begins with rcp_ and has no spaces.");
    return;
  }
  keepToken(secret);
  askNow();
}

function tokenForgotten() {
  keepToken("");
  askNow();
}
