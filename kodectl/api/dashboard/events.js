// What happened, newest first.

import { clock, duration, milliseconds, plural, shortId, size } from "./format.js";
import { h, showIfNew } from "./dom.js";

/** Of each topic, so that many messages push out no news of peers. */
const KEPT = 100;
const SHOWN = 80;
const DRAWN_EVERY_MS = 250;
const TOPICS = [
  ["node", "node"],
  ["peer", "peers"],
  ["nat", "NAT"],
  ["dht", "table"],
  ["message", "messages"],
];
const plain = (text) => String(text ?? "").replaceAll("_", " ");
const peer = (data) => (data.id ? shortId(data.id) : (data.addr ?? "a node"));

function message(data) {
  const through = data.received_from === data.origin ? "" : `, through ${shortId(data.received_from ?? "")}`;
  const by = data.received_from ? `by ${shortId(data.origin)}${through}` : "sent from here";
  return ["", `${data.type} ${shortId(data.id)}, ${size(data.size)}, ${by}`];
}

const SENTENCES = {
  ready: () => ["well", "the node is ready"],
  stopping: () => ["poor", "the node leaves"],
  warning: (d) => ["poor", d.message],
  warning_over: (d) => ["well", `over: the warning about ${plain(d.subject)}`],
  config_reloaded: () => ["", "the configuration was read again"],
  config_refused: (d) => ["poor", `the configuration was not taken over: ${d.message ?? ""}`],
  connecting: (d) => ["", `on the way to ${peer(d)}: ${plain(d.stage)}`],
  connect_failed: (d) => ["poor", `${peer(d)} not reached: ${plain(d.outcome)}${d.detail ? `, ${d.detail}` : ""}`],
  peer_connected: (d) => ["well", `${peer(d)} linked, ${d.direction === "inbound" ? "it dialled" : "dialled"}, ${d.addr}`],
  peer_disconnected: (d) => ["poor", `${peer(d)} gone after ${duration(d.lasted_s)}: ${plain(d.reason)}${d.by === "peer" ? ", by the peer" : ""}`],
  peer_banned: (d) => ["poor", `${peer(d)} banned`],
  peer_unbanned: (d) => ["", `${peer(d)} no longer banned`],
  path_changed: (d) => ["", `${peer(d)} is reached ${d.path === "relay" ? "through a relay" : "directly"} now${d.remote ? `, at ${d.remote}` : ""}`],
  nat_changed: (d) => ["", `reach: ${plain(d.state)}${d.nat_type ? `, NAT ${plain(d.nat_type)}` : ""}${d.observed_address ? `, seen at ${d.observed_address}` : ""}`],
  port_mapped: (d) => ["well", `ports mapped by ${d.method}: ${d.udp ?? d.tcp ?? ""}`],
  port_mapping_lost: (d) => ["poor", `port mapping lost: ${plain(d.reason)}`],
  port_mapping_failed: (d) => ["poor", `ports not mapped: ${d.message}`],
  joined: (d) => ["well", `joined the network, ${plural(d.table_size, "node")} known`],
  isolated: () => ["poor", "no node of the network answers any more"],
  bootstrap_answered: (d) => ["well", `bootstrap node ${d.addr} answered in ${milliseconds(d.rtt_ms)}`],
  bootstrap_failed: (d) => ["poor", `bootstrap node: ${d.error ?? plain(d.state)}`],
  block: message,
  transaction: message,
  node_added: (d) => ["", `${peer(d)} entered the table`],
  node_removed: (d) => ["", `${peer(d)} left the table: ${plain(d.reason)}`],
};

export class EventList {
  #kept = new Map();
  #order = 0;
  #due = false;
  #off = new Set();

  constructor(box, chips) {
    this.box = box;
    this.list = h("ol", { class: "events", role: "log", "aria-live": "off", "aria-label": "Events, newest first", tabindex: 0 });
    for (const [topic, title] of TOPICS) {
      const input = h("input", { type: "checkbox", checked: true, onchange: (event) => this.#switch(topic, event.target.checked) });
      chips.append(h("label", { class: "chip" }, input, title));
    }
    this.#draw();
  }

  take(messages) {
    for (const message of messages) {
      const topic = message.topic ?? "gap";
      const shelf = this.#kept.get(topic) ?? [];
      this.#kept.set(topic, shelf);
      shelf.push({ order: (this.#order += 1), message });
      if (shelf.length > 2 * KEPT) shelf.splice(0, KEPT);
    }
    if (this.#due) return;
    // A burst is drawn once.
    this.#due = true;
    setTimeout(() => {
      this.#due = false;
      this.#draw();
    }, DRAWN_EVERY_MS);
  }

  #switch(topic, on) {
    if (on) this.#off.delete(topic);
    else this.#off.add(topic);
    this.#draw();
  }

  #draw() {
    const shown = [...this.#kept]
      .filter(([topic]) => !this.#off.has(topic))
      .flatMap(([, shelf]) => shelf)
      .sort((one, other) => other.order - one.order)
      .slice(0, SHOWN)
      .map(({ message }) => message);
    if (!shown.length) {
      const text = this.#kept.size ? "Nothing of these kinds." : "Nothing has happened yet since the page was opened.";
      showIfNew(this.box, text, () => h("p", { class: "empty" }, text));
      return;
    }
    showIfNew(this.box, "list", () => this.list);
    this.list.replaceChildren(...shown.map(line));
  }
}

function line(event) {
  if (event.type === "gap") {
    const text = event.missed === null ? "the node was started anew" : `${plural(event.missed, "event")} not seen here`;
    return h("li", { class: "gap" }, text);
  }
  const [level, text] = (SENTENCES[event.type] ?? ((data) => ["", `${plain(event.type)} ${JSON.stringify(data)}`]))(event.data);
  return h("li", { "data-level": level, title: event.type }, h("time", { datetime: event.ts }, clock(event.ts)), h("span", { class: `topic ${event.topic}` }, event.topic), h("span", { class: "what" }, text));
}
