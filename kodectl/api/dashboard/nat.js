// How others reach the node: the way in as a picture, and what is to be done.

import { duration, plural } from "./format.js";
import { facts, h, showIfNew } from "./dom.js";

const SENTENCES = {
  direct: ["well", "Strangers reach this node directly."],
  hole_punching: ["fair", "Peers reach this node through holes punched in its NAT."],
  turn_relay: ["poor", "Peers reach this node through relays only."],
  unknown: ["wait", "Not known yet: nodes of at least two networks have to say what they see."],
};
const TYPES = {
  open: "no NAT",
  full_cone: "full cone NAT",
  restricted: "restricted NAT",
  port_restricted: "port-restricted NAT",
  symmetric: "symmetric NAT",
  firewalled: "firewall",
  blocked: "blocks UDP",
};
const MAPPING_STATES = {
  off: "off",
  searching: "looking for a router that maps ports",
  mapped: "done",
  degraded: "done, but it does not help",
  refused: "refused by the router",
  no_gateway: "no router here maps ports",
};
const PROTOCOLS = { pcp: "PCP", natpmp: "NAT-PMP", upnp: "UPnP" };
const words = (text) => (text === null ? null : text.replaceAll("_", " "));

export function showNat(box, status) {
  const { nat } = status;
  const { checked_s: _, port_mapping: mapping, relay: __, ...rest } = nat;
  const key = JSON.stringify([rest, { ...mapping, expires_s: null }, status.listeners.udp]);
  showIfNew(box, key, () => [sentence(nat), way(status), advice(nat), details(nat)]);
}

function sentence(nat) {
  const [level, text] = SENTENCES[nat.state] ?? ["wait", words(nat.state)];
  return h("p", { class: "nat-verdict", "data-level": level }, h("span", { class: "sign", "aria-hidden": "true" }), text);
}

function way(status) {
  const { nat, listeners } = status;
  const outside = nat.external_udp ?? (nat.observed_address ? `${nat.observed_address}:${nat.observed_port ?? "?"}` : null);
  const box = nat.translated === false ? "no translation" : (TYPES[nat.nat_type] ?? (nat.translated ? "NAT of unknown kind" : "not known"));
  return h(
    "ol",
    { class: "way", "aria-label": "The way in, from outside" },
    station("Seen from outside", outside ?? "nobody has said yet", outside ? null : "unknown"),
    gate(nat),
    station(nat.nat_type === "firewalled" ? "Firewall" : "Router", box, nat.nat_type ? null : "unknown"),
    h("li", { class: "link-line", "aria-hidden": "true" }),
    station("This node", listeners.udp, null),
  );
}

const station = (name, text, css) => h("li", { class: `station ${css ?? ""}` }, h("b", {}, name), h("span", { class: "mono" }, text));

function gate(nat) {
  const mark = (name, open) => {
    const css = open === null ? "unknown" : open ? "open" : "shut";
    const text = open === null ? "not known" : open ? "open to strangers" : "shut to strangers";
    return h("span", { class: `gate ${css}` }, h("b", {}, name), ` ${text}`);
  };
  return h("li", { class: "gates" }, mark("UDP", nat.reachable_udp), mark("TCP", nat.reachable_tcp));
}

function advice(nat) {
  const texts = [nat.advice, nat.port_mapping.error?.hint].filter(Boolean);
  if (!texts.length) return null;
  return h("div", { class: "advice" }, h("h3", {}, "What helps"), ...[...new Set(texts)].map((text) => h("p", {}, sentenceOf(text))));
}

const sentenceOf = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

function details(nat) {
  const mapping = nat.port_mapping;
  const by = mapping.method ? ` by ${PROTOCOLS[mapping.method] ?? mapping.method}` : "";
  const expires = mapping.expires_s ? `, for another ${duration(mapping.expires_s)}` : "";
  return h(
    "dl",
    { class: "facts" },
    ...facts([
      ["Mapping", words(nat.mapping)],
      ["Filtering", words(nat.filtering)],
      ["Port mapping", `${MAPPING_STATES[mapping.state] ?? words(mapping.state)}${by}${expires}`],
      ["Router", mapping.gateway ? `${mapping.gateway_name ?? ""} ${mapping.gateway}`.trim() : null],
      ["Trouble", mapping.state === "no_gateway" ? null : mapping.error?.message],
      ["Carrier NAT", nat.cgnat === null ? null : nat.cgnat ? "yes: the provider shares one address" : "no"],
      ["Two NATs", nat.double_nat === null ? null : nat.double_nat ? "yes: the router is behind another one" : "no"],
      ["Seen by", plural(nat.observers, "network")],
      ["Relays at hand", String(nat.relays)],
      ["Relays for others", nat.relay ? `${nat.relay.state}, ${nat.relay.allocations} of ${nat.relay.max_allocations}` : null],
    ]),
  );
}
