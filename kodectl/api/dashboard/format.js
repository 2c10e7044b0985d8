// Numbers and names as people read them; the same words as the command line's.

const SIZES = ["B", "kB", "MB", "GB", "TB"];

/** Bytes in decimal units, as network equipment counts them. */
export function size(bytes) {
  let unit = 0;
  let count = bytes;
  while (count >= 1000 && unit < SIZES.length - 1) {
    count /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? Math.round(count) : count.toFixed(1)} ${SIZES[unit]}`;
}

export const byteRate = (perSecond) => `${size(perSecond)}/s`;

export function countRate(perSecond) {
  return `${perSecond >= 100 || Number.isInteger(perSecond) ? Math.round(perSecond) : perSecond.toFixed(1)}/s`;
}

export function milliseconds(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms >= 1000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms >= 100) return `${Math.round(ms)} ms`;
  return `${ms.toFixed(ms >= 10 ? 0 : 1)} ms`;
}

/** The two largest units: "3 d 4 h", "5 min 12 s", "7 s". */
export function duration(seconds) {
  let left = Math.floor(seconds);
  const parts = [];
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]]) {
    const count = Math.floor(left / length);
    left -= count * length;
    if (count || (unit === "s" && !parts.length)) parts.push(`${count} ${unit}`);
  }
  return parts.slice(0, 2).join(" ");
}

/** Enough of an id to name a peer to the commands, which take its beginning. */
export const shortId = (id) => id.slice(0, 12);

export const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;

export function clock(rfc3339) {
  return new Date(rfc3339).toLocaleTimeString(undefined, { hour12: false });
}

/** A number of the row 1, 2, 5, 10, 20, ... that is at least `value`. */
export function niceAbove(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((nice) => nice >= value * 0.9999);
}

export function niceBelow(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [5, 2, 1].map((step) => step * power).find((nice) => nice <= value * 1.0001);
}
