// Times, sizes and names for the eye, as `rcpctl status` writes them.

function number(value) {
  return value.toFixed(1).replace(/\.0$/, "");
}

/** `0.8 s`, `12 s`, `4 min 5 s`, `3 h 12 min`, `2 d 4 h`. */
function span(seconds) {
  if (!Number.isFinite(seconds) || seconds < 0) return "?";
  if (seconds < 9.95) return number(seconds) + " s";
  const s = Math.round(seconds);
  const two = (big, unit, small, rest) => small ? `${big} ${unit} ${small} ${rest}` : `${big} ${unit}`;
  if (s < 60) return `${s} s`;
  if (s < 3600) return two(Math.floor(s / 60), "min", s % 60, "s");
  if (s < 86400) return two(Math.floor(s / 3600), "h", Math.floor(s % 3600 / 60), "min");
  return two(Math.floor(s / 86400), "d", Math.floor(s % 86400 / 3600), "h");
}

/** Time between two moments in microseconds. Clocks differ a little; nothing is newer than now. */
function between(from, to) {
  const s = Math.max(0, to - from) / 1e6;
  return span(s < 1 ? s : Math.round(s));
}

/** `1.5 MiB`. */
function size(bytes) {
  if (!Number.isFinite(bytes)) return "?";
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let n = bytes;
  let i = 0;
  while (n >= 1024 && i + 1 < units.length) {
    n /= 1024;
    i += 1;
  }
  return `${i === 0 ? Math.round(n) : number(Math.floor(n * 10) / 10)} ${units[i]}`;
}

function plural(n, what) {
  return n === 1 ? `1 ${what}` : `${n} ${what}s`;
}

/** UTC: the same on every node and in every log, whatever the time zone. */
function moment(us) {
  const t = new Date(us / 1000);
  return Number.isNaN(t.getTime()) ? "?" : t.toISOString().slice(0, 19).replace("T", " ") + " UTC";
}

/** Words of others, on one line and without what turns or hides letters. */
function tame(text) {
  return String(text).replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]+/gu, (c) => (/^\s+$/.test(c) ? " " : "?"));
}

/** A name that may stand in a command somebody copies into a shell. */
function typed(name, instead) {
  return /^[a-z0-9][a-z0-9._-]*$/.test(name) ? name : instead;
}

/** The word before the comma: `readable, 3 sets to merge` is `readable` with details. */
function firstWord(state) {
  return String(state).split(",")[0];
}
