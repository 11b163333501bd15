// What was, as far as this page has seen it: samples of polls, and small plots of them.

/** How long samples are kept, in seconds; and how far apart two may be that a line joins. */
const WINDOW = 600;
const GAP = 15;
/** The shortest time a plot shows; and over which a rate is taken, in seconds. */
const LEAST = 60;
const SMOOTH = 10;

const histories = new Map();
const counters = new Map();

/** Adds a sample; `value` null is a gap. `at` in seconds. */
function sample(key, at, value) {
  const list = histories.get(key) || [];
  histories.set(key, list);
  list.push([at, value]);
  while (list.length && list[0][0] < at - WINDOW) list.shift();
}

/** Per second over the last ten seconds of a counter; null at the first look and after a restart. */
function rate(key, at, count) {
  const c = counters.get(key) || { looks: [], rate: null };
  counters.set(key, c);
  const last = c.looks[c.looks.length - 1];
  if (last && at <= last[0]) return c.rate;
  if (last && count < last[1]) c.looks = [];
  c.looks.push([at, count]);
  while (c.looks.length > 2 && c.looks[1][0] <= at - SMOOTH) c.looks.shift();
  const [from, before] = c.looks[0];
  c.rate = c.looks.length > 1 ? (count - before) / (at - from) : null;
  return c.rate;
}

/** Forgets what was not sampled within the window: a volume or neighbour that is gone. */
function forgetOld(at) {
  for (const [key, list] of histories) {
    if (!list.length || list[list.length - 1][0] < at - WINDOW) histories.delete(key);
  }
  for (const [key, c] of counters) if (c.looks[c.looks.length - 1][0] < at - WINDOW) counters.delete(key);
}

/** The line and the area below it, in a box of `width` by `height` from `from` to `now`. */
function paths(list, from, now, top, width, height) {
  const x = (at) => number2((at - from) / (now - from) * width);
  const y = (value) => number2(height - 1 - Math.min(value / top, 1) * (height - 3));
  let line = "";
  let area = "";
  let run = [];
  const end = () => {
    if (run.length) {
      const points = run.map(([at, v]) => `${x(at)} ${y(v)}`);
      if (points.length === 1) points.push(points[0]);
      line += `M${points.join("L")}`;
      area += `M${x(run[0][0])} ${height}L${points.join("L")}L${x(run[run.length - 1][0])} ${height}Z`;
    }
    run = [];
  };
  for (const point of list) {
    if (point[1] === null || (run.length && point[0] - run[run.length - 1][0] > GAP)) end();
    if (point[1] !== null) run.push(point);
  }
  end();
  return { line, area };
}

function number2(value) {
  return String(Math.round(value * 100) / 100);
}

/** A small plot with its name, its present and its highest value. */
function plot(key, name, now, words, least) {
  const list = (histories.get(key) || []).filter(([at]) => at >= now - WINDOW);
  const values = list.map(([, v]) => v).filter((v) => v !== null);
  const most = values.length ? Math.max(...values) : null;
  const last = list.length ? list[list.length - 1][1] : null;
  const seen = list.length ? now - list[0][0] : 0;
  const { line, area } = paths(list, now - Math.max(seen, LEAST), now, Math.max(most || 0, least), 240, 40);
  const says = last === null ? "unknown" : words(last);
  const highest = most === null ? "" : `most ${words(most)} in ${span(Math.round(seen))}`;
  return el("div", { class: "plot" },
    el("p", {}, el("span", { class: "what" }, name), " ", el("b", {}, says)),
    drawn("svg", {
      viewBox: "0 0 240 40", preserveAspectRatio: "none", role: "img",
      "aria-label": `${name}: ${says}, ${highest}`,
    }, drawn("path", { class: "area", d: area || "M0 0" }), drawn("path", { class: "line", d: line || "M0 0" })),
    el("p", { class: "small" }, highest || "no samples yet"));
}

/** A bar; what it says stands beside it in words. */
function bar(part, kind) {
  const width = number2(Math.max(0, Math.min(1, part)) * 100);
  return drawn("svg", { class: `bar ${kind}`, viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" },
    drawn("rect", { class: "all", x: "0", y: "0", width: "100", height: "6" }),
    drawn("rect", { class: "part", x: "0", y: "0", width, height: "6" }));
}
