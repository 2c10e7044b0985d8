// The table of peers, and what is known of the chosen one.

import { byteRate, duration, milliseconds, plural, shortId, size } from "./format.js";
import { command, facts, h, setText, showIfNew } from "./dom.js";

const COLUMNS = [
  { key: "id", title: "Id", of: (peer) => peer.id },
  { key: "client", title: "Client", of: (peer) => peer.client, css: "wide" },
  { key: "path", title: "Path", of: (peer) => `${peer.path} ${peer.direction}` },
  { key: "latency", title: "Round trip", of: (peer) => peer.latency_ms ?? Infinity, css: "number" },
  { key: "trust", title: "Trust", of: (peer) => -peer.trust, css: "number" },
  { key: "received", title: "Received", of: (peer) => -peer.bytes_received, css: "number" },
  { key: "sent", title: "Sent", of: (peer) => -peer.bytes_sent, css: "number" },
  { key: "since", title: "Linked for", of: (peer) => -peer.connected_s, css: "number wide" },
];

export class Peers {
  #sort = "latency";
  #reverse = false;
  #rows = new Map();
  #peers = [];

  constructor(box, count, choose) {
    this.box = box;
    this.count = count;
    this.choose = choose;
    this.heads = new Map();
    const head = COLUMNS.map((column) => {
      const button = h("button", { type: "button", onclick: () => this.#sortBy(column.key) }, column.title);
      const cell = h("th", { scope: "col", class: column.css }, button);
      this.heads.set(column.key, cell);
      return cell;
    });
    this.body = h("tbody");
    this.table = h("table", { class: "peers" }, h("thead", {}, h("tr", {}, ...head)), this.body);
    this.scroller = h("div", { class: "scroller", role: "region", "aria-labelledby": "peers-title", tabindex: 0 }, this.table);
    this.#markSort();
  }

  show(peers, status, rates) {
    this.#peers = peers;
    setText(this.count, `${peers.length} of at most ${status.max_peers}; ${status.inbound} came in, ${status.outbound} dialled`);
    if (!peers.length) {
      this.#rows.clear();
      this.body.replaceChildren();
      showIfNew(this.box, `empty ${status.enode}`, () => nobody(status));
      return;
    }
    showIfNew(this.box, "table", () => [this.scroller]);
    this.rates = rates;
    this.#draw();
  }

  mark(id) {
    this.chosen = id;
    for (const [one, row] of this.#rows) {
      row.element.classList.toggle("chosen", one === id);
      row.button.setAttribute("aria-pressed", one === id);
    }
  }

  #sortBy(key) {
    this.#reverse = this.#sort === key && !this.#reverse;
    this.#sort = key;
    this.#markSort();
    this.#draw();
  }

  #markSort() {
    for (const [key, cell] of this.heads) {
      if (key === this.#sort) cell.setAttribute("aria-sort", this.#reverse ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    }
  }

  #draw() {
    const { of } = COLUMNS.find((column) => column.key === this.#sort);
    const sign = this.#reverse ? -1 : 1;
    const sorted = [...this.#peers].sort((one, other) => {
      const [a, b] = [of(one), of(other)];
      return a === b ? (one.id < other.id ? -1 : 1) : sign * (a < b ? -1 : 1);
    });
    const there = new Set(sorted.map((peer) => peer.id));
    for (const [id, row] of this.#rows) {
      if (!there.has(id)) {
        row.element.remove();
        this.#rows.delete(id);
      }
    }
    let before = null;
    for (const peer of sorted) {
      const row = this.#rows.get(peer.id) ?? this.#row(peer);
      this.#fill(row, peer);
      // Moved only if it stands elsewhere: the focus would be lost with it.
      const place = before ? before.nextSibling : this.body.firstChild;
      if (place !== row.element) this.body.insertBefore(row.element, place);
      before = row.element;
    }
  }

  #row(peer) {
    const button = h("button", { type: "button", class: "peer-id", "aria-pressed": String(peer.id === this.chosen), title: peer.id, onclick: () => this.choose(peer.id) }, shortId(peer.id));
    const cells = COLUMNS.slice(1).map((column) => h("td", { class: column.css }));
    const element = h("tr", { class: peer.id === this.chosen ? "chosen" : null }, h("th", { scope: "row" }, button), ...cells);
    const row = { element, button, cells };
    this.#rows.set(peer.id, row);
    return row;
  }

  #fill({ cells }, peer) {
    const [client, path, latency, trust, received, sent, since] = cells;
    setText(client, peer.client);
    showIfNew(path, `${peer.path} ${peer.direction} ${peer.transport}`, () => pathOf(peer));
    setText(latency, milliseconds(peer.latency_ms));
    showIfNew(trust, peer.trust.toFixed(2), () => trustOf(peer));
    setText(received, size(peer.bytes_received));
    setText(sent, size(peer.bytes_sent));
    setText(since, duration(peer.connected_s));
  }
}

function pathOf(peer) {
  return [
    h("span", { class: `badge ${peer.path}` }, peer.path),
    h("span", { class: "quiet" }, ` ${peer.transport} ${peer.direction === "inbound" ? "in" : "out"}`),
  ];
}

function trustOf(peer) {
  const meter = h("meter", { min: 0, max: 1, value: peer.trust, "aria-hidden": "true" });
  return [meter, h("span", {}, peer.trust.toFixed(2))];
}

export function chosenPeer(peer, rate) {
  return [
    h("h3", {}, h("span", { class: "mono" }, shortId(peer.id)), ` ${peer.client}`),
    h(
      "dl",
      { class: "facts" },
      ...facts([
        ["Address", h("span", { class: "mono" }, peer.addr)],
        ["Path", `${peer.path}, ${peer.transport}, ${peer.direction === "inbound" ? "it dialled" : "this node dialled"}`],
        ["Pair", peer.pair ? `${peer.pair.local_type} ${peer.pair.local} – ${peer.pair.remote_type} ${peer.pair.remote}` : null],
        ["Round trip", milliseconds(peer.latency_ms)],
        ["Trust", `${peer.trust.toFixed(2)} of 1, priority ${peer.priority}`],
        ["Received", `${size(peer.bytes_received)} in ${plural(peer.messages_received, "message")}${rate ? `, ${byteRate(rate.received)}` : ""}`],
        ["Sent", `${size(peer.bytes_sent)} in ${plural(peer.messages_sent, "message")}${rate ? `, ${byteRate(rate.sent)}` : ""}`],
        ["Linked for", `${duration(peer.connected_s)}${peer.static ? ", and kept so" : ""}`],
        ["Id", h("span", { class: "mono whole" }, peer.id)],
        ["Enode", command(peer.enode)],
      ]),
    ),
  ];
}

function nobody(status) {
  return h(
    "div",
    { class: "empty" },
    h("p", {}, "No node is linked to this one. What mends it:"),
    h(
      "ul",
      {},
      h("li", {}, "Find out what is wrong: ", command("kodectl doctor")),
      h("li", {}, "If you know a node: ", command("kodectl node connect ENODE")),
      h("li", {}, "On another machine, a node that begins with this one: ", command(`kodectl node run --bootstrap '${status.enode}'`)),
    ),
  );
}
