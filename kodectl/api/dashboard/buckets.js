// The routing table: 20 buckets of 16 places.

import { duration, plural } from "./format.js";
import { command, h, setText, showIfNew } from "./dom.js";

const PLACES = 16;

export function showTable(box, count, table) {
  const used = table.buckets.filter((bucket) => bucket.size).length;
  setText(count, `${plural(table.size, "node")} in ${used} of ${table.buckets.length} buckets`);
  if (!table.size) {
    showIfNew(box, "empty", () =>
      h("div", { class: "empty" }, h("p", {}, "No other node is known yet. Nodes come from a bootstrap node or from this LAN: "), command("kodectl node rediscover")),
    );
    return;
  }
  const key = table.buckets.map((bucket) => `${bucket.size}+${bucket.replacements}`).join(" ");
  showIfNew(box, key, () => [picture(table), note()]);
  // Ages change all the time: only what a pointer asks for is told anew.
  box.querySelectorAll(".bucket").forEach((column, index) => (column.title = told(table.buckets[index])));
}

function picture(table) {
  const full = table.buckets.filter((bucket) => bucket.size).map((bucket) => `bucket ${bucket.index}: ${bucket.size}`);
  return h(
    "div",
    { class: "buckets", role: "img", "aria-label": `Nodes of ${PLACES} places; ${full.join(", ")}; the others are empty` },
    ...table.buckets.map(column),
  );
}

function column(bucket) {
  const places = Array.from({ length: PLACES }, (_, place) => h("i", { class: place < bucket.size ? "taken" : null }));
  return h(
    "div",
    { class: bucket.size ? "bucket" : "bucket none" },
    h("span", { class: "waiting" }, bucket.replacements ? `+${bucket.replacements}` : ""),
    h("span", { class: "places" }, ...places),
    h("span", { class: "index" }, bucket.index),
  );
}

function told(bucket) {
  const bits = plural(bucket.index, "leading bit");
  const which = bucket.index === 19 ? "19 leading bits or more" : bits;
  const age = bucket.last_update_s === null ? "" : `, last heard of ${duration(bucket.last_update_s)} ago`;
  const waiting = bucket.replacements ? `, ${bucket.replacements} waiting` : "";
  return `Shares ${which} with this node: ${bucket.size} of ${PLACES} places${waiting}${age}`;
}

function note() {
  return h(
    "p",
    { class: "note" },
    "The number of a bucket is how many leading bits its nodes share with this one. Half of all nodes belong in bucket 0, a quarter in bucket 1, and so on.",
  );
}
