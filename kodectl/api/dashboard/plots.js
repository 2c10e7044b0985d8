// Rates and latency over the last ten minutes, out of GET /api/network/history.

import { byteRate, countRate, duration, milliseconds, niceAbove } from "./format.js";
import { h, s, setText } from "./dom.js";

const SPAN_S = 600;
const FOOT = 18;
const LEFT = 64;
const RIGHT = 6;
const TOP = 6;

const rate = (name) => (sample, before) => (before ? Math.max(0, sample[name] - before[name]) / (sample.at_s - before.at_s) : null);
const value = (name) => (sample) => sample[name];

const PLOTS = [
  {
    title: "Traffic with peers",
    least: 1000,
    text: byteRate,
    up: { name: "received", css: "received", of: rate("bytes_received") },
    down: { name: "sent", css: "sent", of: rate("bytes_sent") },
  },
  {
    title: "Messages",
    least: 2,
    text: countRate,
    up: { name: "received", css: "received", of: rate("messages_received") },
    down: { name: "sent", css: "sent", of: rate("messages_sent") },
  },
  {
    title: "Round trip",
    least: 10,
    text: milliseconds,
    up: { name: "mean over the peers", css: "latency", of: value("latency_ms") },
  },
  {
    title: "Peers",
    least: 5,
    text: String,
    whole: true,
    up: { name: "all", css: "peers", of: (sample) => sample.inbound + sample.outbound },
    part: { name: "through a relay", css: "relay", of: value("relayed") },
  },
  {
    title: "Delay inside the node",
    least: 20,
    text: milliseconds,
    optional: true,
    up: { name: "worst in 2 s", css: "delay", of: value("hub_delay_ms") },
  },
];

/** The history that is kept here: asked for once, then only what is later. */
export class History {
  samples = [];
  nowS = 0;
  #run = null;

  get query() {
    return this.samples.length ? `?since=${this.samples.at(-1).at_s}` : "";
  }

  /** False: the node was started anew in between; ask for all. */
  take(answer) {
    const known = this.#run === null || this.#run === answer.run;
    this.#run = answer.run;
    this.nowS = answer.now_s;
    if (!known) {
      this.samples = [];
      return false;
    }
    this.samples = [...this.samples, ...answer.samples].filter((one) => one.at_s >= answer.now_s - SPAN_S - 4);
    return true;
  }
}

export class Plots {
  #cursor = null;

  constructor(box, when) {
    this.when = when;
    this.plots = PLOTS.map((spec) => new Plot(spec, this));
    box.append(...this.plots.map((plot) => plot.element));
    new ResizeObserver(() => this.#draw()).observe(box);
  }

  show(history) {
    this.history = history;
    this.#draw();
  }

  /** Seconds before now, the same in all plots; null: now. */
  point(agoS) {
    this.#cursor = agoS === null ? null : Math.max(0, Math.min(SPAN_S, agoS));
    setText(this.when, this.#cursor === null ? "now" : `${duration(this.#cursor)} ago`);
    this.#draw();
  }

  get cursor() {
    return this.#cursor;
  }

  #draw() {
    if (!this.history) return;
    const shown = this.plots.filter((plot) => plot.take(this.history));
    for (const plot of this.plots) plot.draw(this.#cursor, plot === shown.at(-1));
  }
}

class Plot {
  constructor(spec, all) {
    this.spec = spec;
    this.series = [spec.up, spec.down, spec.part].filter(Boolean);
    this.figures = this.series.map(() => h("b"));
    const keys = this.series.map((one, index) =>
      h("span", { class: `key ${one.css}` }, h("i", { "aria-hidden": "true" }), `${one.name} `, this.figures[index]),
    );
    this.svg = s("svg", { "aria-hidden": "true" });
    this.area = h(
      "div",
      {
        class: "area",
        role: "slider",
        tabindex: 0,
        "aria-label": `${spec.title} over the last ten minutes; arrow keys go back in time`,
        "aria-valuemin": -SPAN_S,
        "aria-valuemax": 0,
      },
      this.svg,
    );
    this.element = h("figure", { class: "plot" }, h("figcaption", {}, h("h3", {}, spec.title), h("p", {}, ...keys)), this.area);
    this.area.addEventListener("pointermove", (event) => all.point(this.#agoAt(event)));
    this.area.addEventListener("pointerleave", () => all.point(null));
    this.area.addEventListener("blur", () => all.point(null));
    this.area.addEventListener("keydown", (event) => this.#key(event, all));
  }

  #key(event, all) {
    const now = all.cursor ?? 0;
    const step = { ArrowLeft: 2, ArrowRight: -2, ArrowDown: 2, ArrowUp: -2, PageDown: 60, PageUp: -60 }[event.key];
    if (step) all.point(now + step);
    else if (event.key === "Home") all.point(SPAN_S);
    else if (event.key === "End" || event.key === "Escape") all.point(null);
    else return;
    event.preventDefault();
  }

  #agoAt(event) {
    const box = this.area.getBoundingClientRect();
    const share = (event.clientX - box.left - LEFT) / (box.width - LEFT - RIGHT);
    return (1 - share) * SPAN_S;
  }

  /** Computes the values; whether there is anything to show. */
  take({ samples, nowS }) {
    this.points = samples.map((sample, index) => ({
      ago: Math.max(0, nowS - sample.at_s),
      values: this.series.map((one) => one.of(sample, samples[index - 1])),
    }));
    const known = this.points.flatMap((point) => point.values).filter((one) => one !== null);
    this.element.hidden = Boolean(this.spec.optional && !known.length);
    this.most = niceAbove(Math.max(this.spec.least, ...known));
    this.known = known;
    return !this.element.hidden;
  }

  draw(cursor, last) {
    this.element.classList.toggle("last", last);
    const { clientWidth: width, clientHeight } = this.area;
    if (!width || this.element.hidden) return;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${clientHeight}`);
    this.width = width;
    this.height = clientHeight - (last ? FOOT : 0);
    const { down } = this.spec;
    this.zero = down ? TOP + (this.height - 2 * TOP) / 2 : this.height - TOP;
    this.room = this.zero - TOP;
    this.svg.replaceChildren(...this.#grid(last), ...this.#curves(), ...this.#cursorAt(cursor));
    this.#tell(cursor);
  }

  #x = (ago) => LEFT + (1 - ago / SPAN_S) * (this.width - LEFT - RIGHT);
  #y = (amount, sign) => this.zero - sign * (amount / this.most) * this.room;

  #grid(last) {
    const { text, down } = this.spec;
    const lines = [];
    for (let minutes = 0; minutes <= 10; minutes += 2) {
      const x = this.#x(minutes * 60);
      lines.push(s("line", { class: "grid", x1: x, x2: x, y1: TOP, y2: this.height - TOP }));
      if (last) {
        const anchor = minutes === 0 ? "end" : "middle";
        lines.push(s("text", { class: "tick", x, y: this.height + 10, "text-anchor": anchor }, minutes ? `−${minutes} min` : "now"));
      }
    }
    const rows = [[this.most, 1], [0, 1], ...(down ? [[this.most, -1]] : [])];
    for (const [amount, sign] of rows) {
      const y = this.#y(amount, sign);
      lines.push(s("line", { class: amount ? "grid" : "zero", x1: LEFT, x2: this.width - RIGHT, y1: y, y2: y }));
      lines.push(s("text", { class: "tick", x: LEFT - 7, y: y + 3.5, "text-anchor": "end" }, amount ? text(amount).replace(".0 ", " ") : "0"));
    }
    return lines;
  }

  #curves() {
    return this.series.flatMap((one, index) => {
      const sign = one === this.spec.down ? -1 : 1;
      return pieces(this.points, index).flatMap((piece) => {
        const steps = piece.map(([ago, amount], at) => {
          const [x, y] = [this.#x(Math.min(ago, SPAN_S)).toFixed(1), this.#y(amount, sign).toFixed(1)];
          return this.spec.whole && at ? `H${x}V${y}` : `${at ? "L" : "M"}${x} ${y}`;
        });
        const [from, to] = [this.#x(Math.min(piece[0][0], SPAN_S)), this.#x(piece.at(-1)[0])];
        return [
          s("path", { class: `fill ${one.css}`, d: `${steps.join("")}L${to} ${this.zero}L${from} ${this.zero}Z` }),
          s("path", { class: `curve ${one.css}`, d: steps.join("") }),
        ];
      });
    });
  }

  #cursorAt(cursor) {
    if (cursor === null) return [];
    const x = this.#x(cursor);
    const point = this.#nearest(cursor);
    const dots = point
      ? this.series.map((one, index) => {
          const amount = point.values[index];
          const cy = amount === null ? null : this.#y(amount, one === this.spec.down ? -1 : 1);
          return cy === null ? null : s("circle", { class: `at ${one.css}`, cx: this.#x(point.ago), cy, r: 3 });
        })
      : [];
    return [s("line", { class: "cursor", x1: x, x2: x, y1: TOP, y2: this.height - TOP }), ...dots.filter(Boolean)];
  }

  #nearest(ago) {
    const found = this.points.reduce((best, point) => (Math.abs(point.ago - ago) < Math.abs(best.ago - ago) ? point : best), { ago: Infinity });
    return Math.abs(found.ago - ago) <= 6 ? found : null;
  }

  #tell(cursor) {
    const point = cursor === null ? this.points.at(-1) : this.#nearest(cursor);
    const texts = this.series.map((_, index) => {
      const amount = point?.values[index] ?? null;
      return amount === null ? "–" : this.spec.text(amount);
    });
    texts.forEach((text, index) => setText(this.figures[index], text));
    this.area.setAttribute("aria-valuenow", -Math.round(cursor ?? 0));
    const when = cursor ? `${duration(cursor)} ago` : "now";
    const said = this.series.map((one, index) => `${one.name} ${texts[index] === "–" ? "not known" : texts[index]}`);
    const most = this.known.length ? `; most ${this.spec.text(Math.max(...this.known))}` : "";
    this.area.setAttribute("aria-valuetext", `${when}: ${said.join(", ")}${most}`);
  }
}

/** Runs of known values: [[ago, value], ...]. What was not known leaves a gap. */
function pieces(points, index) {
  const found = [];
  let open = null;
  for (const point of points) {
    const amount = point.values[index];
    if (amount === null) {
      open = null;
    } else {
      if (!open) found.push((open = []));
      open.push([point.ago, amount]);
    }
  }
  return found;
}

