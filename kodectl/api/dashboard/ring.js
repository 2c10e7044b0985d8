// The peers around the node. The distance from the middle is the last round trip, on a logarithmic scale; the angle is the
// peer's place among all ids, moved a little where two would cover each other.

import { milliseconds, niceAbove, niceBelow, plural, shortId } from "./format.js";
import { s } from "./dom.js";

const NEAREST = 74;
const FARTHEST = 262;
/** Farthest to nearest: less would make much of nothing. */
const MIN_RANGE = 4;
const LABELS_UP_TO = 16;
const NAME_WIDTH = 66;
/** Pixels: below it the names of all peers would be too small to read. */
const NARROW = 520;
const GOING_MS = 700;
const PULSE_MS = 1100;
const TURN = 2 * Math.PI;

const calm = matchMedia("(prefers-reduced-motion: reduce)");

/** A range of the row 1, 2, 5, 10, ... around all round trips, so that the scale changes seldom. */
export function rangeOf(latencies) {
  if (!latencies.length) return [1, 100];
  let low = niceBelow(Math.max(0.01, Math.min(...latencies)));
  let high = niceAbove(Math.max(0.01, ...latencies));
  if (high / low < MIN_RANGE) high = niceAbove(high * 1.5);
  if (high / low < MIN_RANGE) low = niceBelow(low / 1.5);
  return [low, high];
}

/** An angle for each id: in the order of the ids, and none nearer than `gap` to the next. */
export function anglesOf(ids) {
  const sorted = [...ids].sort();
  const gap = Math.min(0.4, TURN / Math.max(1, sorted.length)) * 0.92;
  const angles = sorted.map((id) => (parseInt(id.slice(0, 8), 16) / 2 ** 32) * TURN);
  for (let round = 0; round < 60; round += 1) {
    let moved = false;
    for (let i = 0; i < angles.length; i += 1) {
      const next = (i + 1) % angles.length;
      const between = angles[next] - angles[i] + (next === 0 ? TURN : 0);
      if (next !== i && between < gap - 1e-6) {
        angles[i] -= (gap - between) / 2;
        angles[next] += (gap - between) / 2;
        moved = true;
      }
    }
    if (!moved) break;
  }
  return new Map(sorted.map((id, index) => [id, angles[index] - TURN / 4]));
}

export class Ring {
  #peers = new Map();
  #scale = "";
  #chosen = null;

  constructor(svg, choose) {
    this.svg = svg;
    this.choose = choose;
    this.rings = s("g", { class: "rings" });
    this.edges = s("g", { class: "edges" });
    this.pulses = s("g", { class: "pulses" });
    this.bodies = s("g", { class: "bodies" });
    this.reach = s("circle", { class: "reach", r: 33 });
    this.self = s(
      "g",
      { class: "self" },
      this.reach,
      s("circle", { class: "core", r: 23 }),
      (this.count = s("text", { class: "count", y: 1 })),
    );
    new ResizeObserver(([{ contentRect }]) => this.#fit(contentRect.width)).observe(svg);
    svg.append(this.rings, this.edges, this.pulses, this.bodies, this.self);
  }

  /** `moved`: messages since the last time, by id: {sent, received}. `reach`: the state of the NAT. */
  show(peers, reach, moved) {
    const measured = peers.map((peer) => peer.latency_ms).filter((ms) => ms !== null);
    const range = rangeOf(measured);
    this.#drawScale(range);
    this.reach.setAttribute("class", `reach ${reach}`);
    this.count.textContent = peers.length;
    const angles = anglesOf(peers.map((peer) => peer.id));
    const there = new Set(angles.keys());
    for (const [id, drawn] of this.#peers) if (!there.has(id)) this.#remove(id, drawn);
    this.svg.classList.toggle("crowded", peers.length > LABELS_UP_TO);
    for (const peer of peers) {
      const drawn = this.#peers.get(peer.id) ?? this.#add(peer);
      this.#place(drawn, peer, angles.get(peer.id), radiusOf(peer.latency_ms, range));
      const news = moved.get(peer.id);
      if (news) this.#pulse(drawn, news);
    }
    this.#hideCoveredNames();
    this.svg.setAttribute("aria-label", described(peers));
  }

  mark(id) {
    this.#chosen = id;
    for (const [one, drawn] of this.#peers) {
      drawn.body.classList.toggle("chosen", one === id);
      drawn.edge.classList.toggle("chosen", one === id);
    }
  }

  #fit(width) {
    const narrow = width < NARROW;
    this.svg.classList.toggle("narrow", narrow);
    this.svg.setAttribute("viewBox", narrow ? "-300 -296 600 592" : "-360 -292 720 584");
  }

  #drawScale(range) {
    const key = range.join(" ");
    if (this.#scale === key) return;
    this.#scale = key;
    this.rings.replaceChildren();
    const [low, high] = range;
    const steps = [];
    for (let ms = low; ms <= high * 1.001; ms = niceAbove(ms * 1.5)) steps.push(ms);
    for (const ms of steps) {
      const radius = radiusOf(ms, range);
      this.rings.append(s("circle", { class: "ring-line", r: radius }));
      // Over more than a decade and a half the rings lie close: then only the decades have names.
      if (steps.length <= 6 || Math.abs(Math.log10(ms) - Math.round(Math.log10(ms))) < 0.01) {
        this.rings.append(s("text", { class: "ring-label", y: -radius }, tick(ms)));
      }
    }
  }

  #add(peer) {
    const edge = s("line", { class: "edge coming", x1: 0, y1: 0, x2: 1, y2: 0, "vector-effect": "non-scaling-stroke" });
    const title = s("title");
    const halo = s("circle", { class: "halo" });
    const dot = s("circle", { class: "dot" });
    const arrow = s("path", { class: "arrow" });
    const name = s("text", { class: "name" }, shortId(peer.id).slice(0, 8));
    const body = s("g", { class: "peer coming" }, title, halo, dot, arrow, name);
    body.addEventListener("click", () => this.choose(peer.id));
    this.edges.append(edge);
    this.bodies.append(body);
    // In the next frame, so that it is seen to come.
    requestAnimationFrame(() => requestAnimationFrame(() => [edge, body].forEach((one) => one.classList.remove("coming"))));
    const drawn = { edge, body, title, halo, dot, arrow, name, x: 0, y: 0 };
    this.#peers.set(peer.id, drawn);
    if (peer.id === this.#chosen) this.mark(peer.id);
    return drawn;
  }

  #remove(id, { edge, body }) {
    this.#peers.delete(id);
    for (const one of [edge, body]) {
      one.classList.add("going");
      setTimeout(() => one.remove(), GOING_MS);
    }
  }

  #place(drawn, peer, angle, radius) {
    const x = Math.cos(angle) * radius;
    const y = Math.sin(angle) * radius;
    const size = 5 + 6 * Math.max(0, Math.min(1, peer.trust));
    const relay = peer.path === "relay";
    const right = Math.cos(angle) >= -0.05;
    Object.assign(drawn, { x, y, size, right });
    drawn.edge.style.transform = `rotate(${angle}rad) scaleX(${radius})`;
    drawn.edge.classList.toggle("relay", relay);
    drawn.body.style.transform = `translate(${x}px, ${y}px)`;
    drawn.body.classList.toggle("relay", relay);
    drawn.body.classList.toggle("unmeasured", peer.latency_ms === null);
    drawn.dot.setAttribute("r", size);
    drawn.halo.setAttribute("r", size + 6);
    drawn.name.setAttribute("x", (right ? 1 : -1) * (size + 6));
    drawn.name.setAttribute("y", 4);
    drawn.name.setAttribute("text-anchor", right ? "start" : "end");
    // Which of the two dialled: the tip shows the way that the call went.
    const tip = peer.direction === "outbound" ? 1 : -1;
    const base = -(size + 9);
    drawn.arrow.setAttribute("d", `M${base - 3 * tip} -4 L${base + 3 * tip} 0 L${base - 3 * tip} 4`);
    drawn.arrow.style.transform = `rotate(${angle}rad)`;
    drawn.title.textContent =
      `${shortId(peer.id)} ${peer.addr}\n${peer.path}, ${peer.direction}, ` +
      `${milliseconds(peer.latency_ms)}, trust ${peer.trust.toFixed(2)}`;
  }

  /** A name that would lie on another one, or on a peer, shows only when it is pointed at. */
  #hideCoveredNames() {
    const drawn = [...this.#peers.values()];
    const taken = [];
    for (const one of drawn) {
      const [left, right] = one.right ? [one.x + one.size + 4, one.x + one.size + NAME_WIDTH] : [one.x - one.size - NAME_WIDTH, one.x - one.size - 4];
      const meets = (other) => left < other.right && right > other.left && Math.abs(one.y - other.y) < other.reach;
      const others = drawn.filter((other) => other !== one);
      const dots = others.map(({ x, y, size }) => ({ left: x - size, right: x + size, y, reach: size + 8 }));
      const covered = [...taken, ...dots].some(meets);
      one.body.classList.toggle("covered", covered);
      if (!covered) taken.push({ left, right, y: one.y, reach: 14 });
    }
  }

  #pulse({ x, y }, { sent, received }) {
    if (calm.matches || document.hidden) return;
    const here = "translate(0px, 0px)";
    const there = `translate(${x}px, ${y}px)`;
    for (const [count, name, way] of [[sent, "sent", [here, there]], [received, "received", [there, here]]]) {
      if (!count) continue;
      const dot = s("circle", { class: `pulse ${name}`, r: 3 });
      this.pulses.append(dot);
      const frames = way.map((transform) => ({ transform }));
      dot.animate(frames, { duration: PULSE_MS, easing: "ease-in-out" }).finished.finally(() => dot.remove());
    }
  }
}

function radiusOf(ms, [low, high]) {
  if (ms === null) return FARTHEST + 16;
  const share = Math.log(Math.max(ms, low) / low) / Math.log(high / low);
  return NEAREST + Math.min(1, share) * (FARTHEST - NEAREST);
}

const tick = (ms) => (ms >= 1000 ? `${ms / 1000} s` : `${Number(ms.toPrecision(1))} ms`);

function described(peers) {
  if (!peers.length) return "No peers around this node";
  const relayed = peers.filter((peer) => peer.path === "relay").length;
  const measured = peers.filter((peer) => peer.latency_ms !== null).sort((one, other) => one.latency_ms - other.latency_ms);
  const parts = [plural(peers.length, "peer")];
  parts.push(relayed ? `${relayed} through a relay` : "all direct");
  if (measured.length) {
    parts.push(`nearest ${milliseconds(measured[0].latency_ms)}, farthest ${milliseconds(measured.at(-1).latency_ms)}`);
  }
  return `${parts.join(", ")}. The table of peers tells the same.`;
}
