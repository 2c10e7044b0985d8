// A lookup by node id: who was asked, who answered, and how near it came.

import { milliseconds, plural, shortId } from "./format.js";
import { h, s, showIfNew } from "./dom.js";
import { Problem, Unreachable } from "./api.js";

const LIMIT_MS = 60_000;
const ID = /^[0-9a-f]{64}$/;

/** The id in what was typed: 64 hex digits, or an enode. */
export function idIn(text) {
  const bare = text.trim().toLowerCase().replace(/^enode:\/\//, "").split("@")[0];
  return ID.test(bare) ? bare : null;
}

export class Lookup {
  constructor(form, result, api) {
    this.result = result;
    this.api = api;
    this.input = form.elements.id;
    this.button = form.querySelector("button");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#run();
    });
  }

  /** Ids to try, as long as nothing has been looked up. */
  suggest(ids) {
    if (this.asked) return;
    showIfNew(this.result, ids.join(), () =>
      ids.length ? h("div", { class: "ids" }, h("p", { class: "note" }, "Nodes of the table:"), ...ids.map((id) => this.#suggestion(id))) : [],
    );
  }

  #suggestion(id) {
    const button = h("button", { type: "button", class: "peer-id", "aria-label": `Look up ${shortId(id)}` }, shortId(id));
    button.addEventListener("click", () => {
      this.input.value = id;
      this.#run();
    });
    return button;
  }

  async #run() {
    this.asked = true;
    const id = idIn(this.input.value);
    this.input.setAttribute("aria-invalid", id === null);
    if (id === null) {
      this.#say("wrong", this.input.value.trim() ? "That is no node id: it has 64 hex digits, and so has an enode after enode://." : "Type a node id first.");
      this.input.focus();
      return;
    }
    this.button.disabled = true;
    this.#say("quiet", `Looking for ${shortId(id)} …`);
    try {
      this.#show(id, await this.api.get(`/api/dht/nodes/${id}`, LIMIT_MS));
    } catch (error) {
      if (!(error instanceof Problem || error instanceof Unreachable)) throw error;
      this.#say("wrong", `${error.message}${error.hint ? `. ${error.hint}` : ""}`);
    } finally {
      this.button.disabled = false;
    }
  }

  #say(css, text) {
    this.result.replaceChildren(h("p", { class: css }, text));
  }

  #show(id, found) {
    const answered = found.trace.filter((hop) => hop.outcome === "answered").length;
    const effort = `${plural(found.messages, "question")} in ${plural(found.rounds, "round")}, ${answered} answered, ${milliseconds(found.elapsed_ms)}`;
    const [first] = found.closest;
    const parts = [
      h("p", { class: found.found ? "outcome well" : "outcome poor" }, found.found ? `Found ${shortId(id)}.` : `No node with the id ${shortId(id)} was found.`),
      h("p", { class: "note" }, effort),
    ];
    if (found.found && first) parts.push(h("p", { class: "mono whole" }, first.enode));
    if (found.trace.length > 1) parts.push(picture(found.trace));
    if (!found.found && first) parts.push(h("p", {}, `The closest is ${shortId(first.id)}: it shares ${plural(256 - first.distance_bits, "leading bit")}.`));
    parts.push(table(found));
    this.result.replaceChildren(...parts);
  }
}

const WIDTH = 460;
const HEIGHT = 150;

function picture(trace) {
  const most = Math.max(...trace.map((hop) => hop.distance_bits));
  const least = Math.min(...trace.map((hop) => hop.distance_bits));
  const x = (index) => 46 + (trace.length === 1 ? 0 : (index / (trace.length - 1)) * (WIDTH - 66));
  const y = (bits) => 16 + (most === least ? 0.5 : (most - bits) / (most - least)) * (HEIGHT - 40);
  const svg = s("svg", { class: "hops", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `Distance of the nodes asked, from ${most} bits down to ${least}` });
  for (const bits of new Set([most, least])) {
    svg.append(s("line", { class: "grid", x1: 40, x2: WIDTH - 8, y1: y(bits), y2: y(bits) }));
    svg.append(s("text", { class: "tick", x: 34, y: y(bits) + 4, "text-anchor": "end" }, `${bits}`));
  }
  svg.append(s("text", { class: "tick", x: 46, y: HEIGHT - 4 }, "bits of distance, in the order of the questions"));
  const near = [];
  let best = Infinity;
  trace.forEach((hop, index) => {
    if (hop.outcome === "answered" && hop.distance_bits <= best) {
      best = hop.distance_bits;
      near.push(`${x(index)},${y(hop.distance_bits)}`);
    }
  });
  svg.append(s("polyline", { class: "nearer", points: near.join(" ") }));
  trace.forEach((hop, index) => {
    const title = s("title", {}, `${shortId(hop.id)} ${hop.addr}: ${hop.outcome}${hop.rtt_ms === null ? "" : `, ${milliseconds(hop.rtt_ms)}`}`);
    svg.append(s("circle", { class: `hop ${hop.outcome}`, cx: x(index), cy: y(hop.distance_bits), r: 4.5 }, title));
  });
  return svg;
}

function table(found) {
  const rows = found.trace.map((hop) =>
    h("tr", {}, h("td", { class: "number" }, hop.round), h("td", { class: "mono" }, shortId(hop.id)), h("td", { class: "number" }, hop.distance_bits), h("td", {}, hop.outcome), h("td", { class: "number" }, milliseconds(hop.rtt_ms)), h("td", { class: "number" }, hop.new_contacts)),
  );
  const heads = ["Round", "Node", "Distance", "Outcome", "Round trip", "New"];
  const numbers = new Set(["Round", "Distance", "Round trip", "New"]);
  return h(
    "details",
    {},
    h("summary", {}, "Every question"),
    h("div", { class: "scroller" }, h("table", {}, h("thead", {}, h("tr", {}, ...heads.map((head) => h("th", { scope: "col", class: numbers.has(head) ? "number" : null }, head)))), h("tbody", {}, ...rows))),
  );
}
