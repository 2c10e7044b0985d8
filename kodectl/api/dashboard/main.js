// The page: asks the node every two seconds and whenever it says that something happened, and hands the answers round.

import { Api, Events, Problem, Unreachable } from "./api.js";
import { byId, command, facts, h, setText, showIfNew } from "./dom.js";
import { duration, plural, shortId } from "./format.js";
import { showTable } from "./buckets.js";
import { EventList } from "./events.js";
import { Lookup } from "./lookup.js";
import { showNat } from "./nat.js";
import { chosenPeer, Peers } from "./peers.js";
import { History, Plots } from "./plots.js";
import { Ring } from "./ring.js";

const EVERY_MS = 2000;
/** After an event: more of them come together. */
const SOON_MS = 150;
const LEAST_MS = 600;
/** The routing table is asked for in every so manieth round, and when it has changed. */
const TABLE_EVERY = 5;
/** Ids of the table to try a lookup with. */
const SUGGESTED = 6;

const REACH = {
  direct: "strangers reach it",
  hole_punching: "reached through punched holes",
  turn_relay: "reached through relays only",
  unknown: "not known yet whether strangers reach it",
};
const LINK = { live: "live", polled: "live, by polling", lost: "asking every 2 s", wait: "connecting", down: "no answer" };

const api = new Api();
const history = new History();
const ring = new Ring(byId("ring"), choose);
const plots = new Plots(byId("plots"), byId("plots-when"));
const peersTable = new Peers(byId("peers"), byId("peers-count"), choose);
const eventList = new EventList(byId("events"), byId("event-topics"));
const lookup = new Lookup(byId("lookup"), byId("lookup-result"), api);

let events = null;
let round = 0;
let timer = null;
let due = 0;
let lastAsked = -Infinity;
let asking = false;
let askAgain = false;
let tableIsOld = true;
let chosen = null;
let peers = [];
let before = new Map();
let rates = new Map();

// -- asking ------------------------------------------------------------------------------------------------------------

/** Never later than it was meant to be before, and never sooner after the last time than a storm of events may cost. */
function askIn(ms) {
  const now = performance.now();
  const at = Math.max(now + ms, lastAsked + LEAST_MS);
  if (timer !== null && at >= due) return;
  clearTimeout(timer);
  due = at;
  timer = setTimeout(ask, at - now);
}

function stopAsking() {
  clearTimeout(timer);
  timer = null;
}

async function ask() {
  if (asking) {
    askAgain = true;
    return;
  }
  asking = true;
  askAgain = false;
  stopAsking();
  lastAsked = performance.now();
  try {
    await look();
    document.body.classList.remove("stale");
    events ?? follow();
  } catch (error) {
    if (error instanceof Problem && error.status === 401) askForToken();
    else if (error instanceof Problem || error instanceof Unreachable) silent(error);
    else throw error;
  } finally {
    asking = false;
    if (!document.hidden && !dialog.open) askIn(askAgain ? SOON_MS : EVERY_MS);
  }
}

async function look() {
  // One before the others: if it is refused for want of a token, that is said once.
  const status = await api.get("/api/network/status");
  const wanted = tableIsOld || round % TABLE_EVERY === 0;
  const [list, recent, table] = await Promise.all([
    api.get("/api/network/peers?sort=latency"),
    api.get(`/api/network/history${history.query}`),
    wanted ? api.get("/api/network/routing") : null,
  ]);
  round += 1;
  peers = list.peers;
  const moved = measure(peers);
  showStatus(status);
  ring.show(peers, status.nat.state, moved);
  peersTable.show(peers, status, rates);
  showChosen();
  showNat(byId("nat"), status);
  if (!history.take(recent)) history.take(await api.get("/api/network/history"));
  plots.show(history);
  if (table) {
    tableIsOld = false;
    showTable(byId("buckets"), byId("buckets-count"), table);
    lookup.suggest(table.buckets.flatMap((bucket) => bucket.nodes).slice(0, SUGGESTED));
  }
}

/** Rates of each peer, and who has moved messages since the last look. */
function measure(list) {
  const now = performance.now();
  const moved = new Map();
  const after = new Map();
  rates = new Map();
  for (const peer of list) {
    const last = before.get(peer.id);
    after.set(peer.id, { at: now, peer });
    if (!last || last.peer.since.slice(0, 19) !== peer.since.slice(0, 19)) continue;
    const sent = peer.messages_sent - last.peer.messages_sent;
    const received = peer.messages_received - last.peer.messages_received;
    if (sent > 0 || received > 0) moved.set(peer.id, { sent, received });
    const passedS = (now - last.at) / 1000;
    rates.set(peer.id, {
      sent: Math.max(0, (peer.bytes_sent - last.peer.bytes_sent) / passedS),
      received: Math.max(0, (peer.bytes_received - last.peer.bytes_received) / passedS),
    });
  }
  before = after;
  return moved;
}

function follow() {
  events = new Events(
    api,
    (messages) => {
      eventList.take(messages);
      const kinds = new Set(messages.map((message) => message.topic ?? "gap"));
      if (kinds.has("dht") || kinds.has("gap")) tableIsOld = true;
      if (kinds.has("peer") || kinds.has("nat") || kinds.has("node") || kinds.has("gap")) askIn(SOON_MS);
    },
    (state) => showLink(state),
  );
  events.run();
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) stopAsking();
  else if (!dialog.open) ask();
});

// -- the top -----------------------------------------------------------------------------------------------------------

function showLink(state) {
  byId("link").dataset.state = state;
  setText(byId("link-text"), LINK[state]);
}

/** In the words of `kodectl node top`. */
function verdictOf(status) {
  if (status.state !== "ready") return ["fair", status.state === "starting" ? "The node is starting" : "The node is leaving"];
  if (!status.peers) return ["poor", "No peers"];
  const reach = REACH[status.nat.state] ?? status.nat.state;
  const text = `${plural(status.peers, "peer")}, ${reach}`;
  return [status.warnings.length || status.nat.state === "turn_relay" ? "fair" : "well", text];
}

function showStatus(status) {
  const [level, text] = verdictOf(status);
  byId("verdict").dataset.level = level;
  setText(byId("verdict-text"), text);
  document.title = `${text} – kodectl`;
  showIfNew(byId("verdict-more"), JSON.stringify([level, status.warnings]), () => [
    ...status.warnings.map((warning) => h("p", {}, warning)),
    level === "well" ? "" : h("p", {}, "What is wrong, and what mends it: ", command("kodectl doctor")),
  ]);
  setText(byId("network"), status.network);
  showIfNew(byId("who"), `${status.enode} ${status.client}`, () =>
    facts([
      ["Node", h("span", { class: "mono", title: status.id }, shortId(status.id))],
      ["Running for", h("span", { id: "uptime" })],
      ["Client", status.client],
      ["Listens on", h("span", { class: "mono" }, `${status.listeners.tcp} tcp, ${status.listeners.udp} udp`)],
      ["Enode", command(status.enode)],
    ]),
  );
  setText(byId("uptime"), duration(status.uptime_s));
}

function silent(error) {
  document.body.classList.add("stale");
  showLink("down");
  byId("verdict").dataset.level = "poor";
  setText(byId("verdict-text"), error instanceof Problem ? "The node refuses to tell" : "The node does not answer");
  showIfNew(byId("verdict-more"), error.message, () => [
    h("p", {}, error instanceof Problem ? `${error.message}. ${error.hint ?? ""}` : "What stands below is old. This page asks again every 2 s; if the node has stopped, start it: "),
    error instanceof Problem ? "" : command("kodectl node run"),
  ]);
  document.title = "No answer – kodectl";
}

// -- the chosen peer ---------------------------------------------------------------------------------------------------

function choose(id) {
  chosen = chosen === id ? null : id;
  ring.mark(chosen);
  peersTable.mark(chosen);
  showChosen();
}

function showChosen() {
  const peer = peers.find((one) => one.id === chosen);
  const box = byId("chosen");
  if (!peer) {
    const text = chosen ? `${shortId(chosen)} is gone.` : "";
    showIfNew(box, text, () => (text ? h("p", {}, text) : []));
    return;
  }
  // Said aloud when another is chosen, not at every figure that changes.
  box.setAttribute("aria-live", box.dataset.shown === peer.id ? "off" : "polite");
  box.dataset.shown = peer.id;
  box.replaceChildren(...chosenPeer(peer, rates.get(peer.id)));
}

// -- the token ---------------------------------------------------------------------------------------------------------

const dialog = byId("token");

function askForToken() {
  stopAsking();
  setText(byId("verdict-text"), "This node asks for its token");
  showLink("wait");
  setText(byId("token-trouble"), api.token ? "The node does not take this token." : "");
  showIfNew(byId("token-command"), "shown", () => command("cat ~/.local/share/kodectl/api.token"));
  api.token = null;
  if (!dialog.open) dialog.showModal();
}

byId("token-form").addEventListener("submit", () => {
  const field = byId("token-text");
  api.token = field.value.trim();
  field.value = "";
  ask();
});
dialog.addEventListener("cancel", (event) => event.preventDefault());

// -- the theme ---------------------------------------------------------------------------------------------------------

const theme = byId("theme");
theme.value = document.documentElement.dataset.theme ?? "";
theme.addEventListener("change", () => {
  if (theme.value) document.documentElement.dataset.theme = theme.value;
  else delete document.documentElement.dataset.theme;
  try {
    localStorage.setItem("kodectl-theme", theme.value);
  } catch {
    // No storage: it lasts as long as the page.
  }
});

ask();
