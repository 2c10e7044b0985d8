"""Routers and NATs."""

from __future__ import annotations

from kodectl.cli.explanations.entry import Explanation

GATEWAYS = {
    "no_gateway": Explanation(
        "No router here answers a protocol that maps ports.",
        "PCP and NAT-PMP asked at the default gateway, and UPnP by multicast, stayed without a usable answer.",
        "Switch on UPnP, NAT-PMP or PCP in the router, or forward the ports there by hand.",
        "kodectl nat probe",
    ),
    "mapping_refused": Explanation(
        "The router answers, and does not map the port.",
        "Its answer carries an error; the message has its number and meaning.",
        "Look at the router's log and settings, or forward the port there by hand.",
        "kodectl nat mappings",
    ),
    "mapping_conflict": Explanation(
        "The outer port belongs to another host, or to the router itself.",
        "The router says so, and for some other ports as well.",
        "Take another outer port.",
        "kodectl nat map 30303/tcp:30304",
    ),
    "mapping_not_authorised": Explanation(
        "The router does not let this machine map this port.",
        "The router refuses for lack of permission: mapping is switched off, closed to this machine or port, or an "
        "earlier program holds the mapping under a secret of its own.",
        "Allow UPnP, NAT-PMP or PCP in the router's settings, also for this machine and ports above 1023.",
        "kodectl nat map 30303/tcp",
    ),
    "mapping_permanent_only": Explanation(
        "The router makes only mappings without an end.",
        "It refuses a limited lease (UPnP error 725).",
        "Ask for one without an end, and remove it afterwards.",
        "kodectl nat map 30303/tcp --lease 0",
    ),
    "mapping_unsupported": Explanation(
        "The router does not speak this version or part of the mapping protocol.",
        "Its answer says so.",
        "Use another protocol.",
        "kodectl nat map --proto auto",
    ),
    "gateway_full": Explanation(
        "The router has no room for another mapping.",
        "It says that its table, or this machine's share of it, is used up.",
        "Remove mappings that nobody needs, or restart the router.",
        "kodectl nat mappings",
    ),
    "gateway_no_address": Explanation(
        "The router has no outer address whose ports it could map, or does not tell it.",
        "It says that its network failed, or names 0.0.0.0. Some say so too when they are behind another NAT.",
        "Bring the router's connection up; a node maps its ports by itself then. Behind another NAT, map them there.",
        "kodectl nat probe",
    ),
    "partly_mapped": Explanation(
        "The router maps some of the ports and refuses others.",
        "Each port was asked for by itself, and answered.",
        "Each refusal has a reason of its own; ports below 1024 and those of the router itself are often closed.",
        "kodectl nat mappings",
    ),
    "other_outer_port": Explanation(
        "A port is mapped, but to another outer port than the one asked for.",
        "The router had that one taken, and gave another, which was read back.",
        "Tell others the outer port that it has now, or ask for a free one.",
        "kodectl nat mappings",
    ),
    "not_mapped": Explanation(
        "There is nothing to remove.",
        "The router lists its mappings, and none leads to this port of this host.",
        "Nothing, if it was to be gone. A mapping of another host can be removed there, or in the router.",
        "kodectl nat mappings",
    ),
    "double_nat": Explanation(
        "The router that maps the ports stands behind another NAT.",
        "Its outer address is private (RFC 1918) or a provider's shared one (100.64.0.0/10, RFC 6598).",
        "Map the ports on both routers, or set one to bridge mode; from a provider that shares, ask for an address.",
        "kodectl nat probe",
    ),
}

NAT = {
    "udp_blocked": Explanation(
        "UDP does not get out of this network.",
        "No STUN server or bootstrap node answered over UDP, and at least one of them could be reached over TCP; or "
        "this machine refuses to send.",
        "Let UDP out to any port, at least to the discovery ports of peers (30301), and the answers in.",
        "kodectl doctor --check udp_egress",
    ),
    "no_server_answered": Explanation(
        "No STUN server answered.",
        "Each was asked 14 times over UDP, and once over TCP.",
        "Check the network and the addresses of the servers; name another one, or any node.",
        "kodectl nat probe --via-node ENODE",
    ),
    "server_silent": Explanation(
        "One of the STUN servers does not answer.",
        "It was asked 14 times; others answered meanwhile.",
        "The others decide without it; name another one in its place.",
        "kodectl nat probe --server HOST:PORT --server HOST:PORT --server HOST:PORT",
    ),
    "servers_disagree": Explanation(
        "STUN servers say what cannot all be true, or too few say the same.",
        "Where more than half of them agree, the others are named; where not, nothing is concluded.",
        "Name three servers in different networks, or more.",
        "kodectl nat probe --server HOST:PORT --server HOST:PORT --server HOST:PORT",
    ),
    "server_has_one_address": Explanation(
        "The STUN server cannot answer from another address, which it takes to see mapping and filter.",
        "It names no other address (RFC 5780, OTHER-ADDRESS), or refuses to answer from it.",
        "Name one that has two; nat serve --alt-ip and coturn do. The mapping shows by two servers too.",
        "kodectl nat serve --listen IP:3478 --alt-ip IP",
    ),
    "server_alternate_silent": Explanation(
        "The other address that a STUN server names does not answer.",
        "It was asked 8 times, after the server itself had answered.",
        "Its silence shows nothing of the filter here. Name another server, or mend this one.",
        "kodectl nat probe --server HOST:PORT --server HOST:PORT",
    ),
    "server_inconsistent": Explanation(
        "The other address that a STUN server names is not its own.",
        "It is its first one, one of this machine or of a private network, or who answers there does not know the server.",
        "It is set up wrongly, or it lies. Name another server.",
        "kodectl nat probe --server HOST:PORT --server HOST:PORT",
    ),
    "server_does_not_change": Explanation(
        "The STUN server was not seen to answer from its other address.",
        "Even a socket that had sent there, so that no filter could be in the way, got no such answer.",
        "Its silence shows nothing of the filter here. Name another server.",
        "kodectl nat probe --server HOST:PORT --server HOST:PORT",
    ),
    "mapping_changed": Explanation(
        "The same server saw the same socket at two addresses.",
        "It was asked twice within seconds. The router restarted meanwhile, or the server makes up what it says.",
        "Probe again; if it stays so, name another server.",
        "kodectl nat probe --server HOST:PORT",
    ),
    "mapping_varies": Explanation(
        "The NAT gives one socket another port for each destination.",
        "Servers, or the two addresses of one, see different ports.",
        "Peers reach such a host through a relay, unless its ports are forwarded.",
        "kodectl nat map 30303/tcp 30301/udp",
    ),
    "mapping_unknown": Explanation(
        "What this shows depends on how the NAT maps ports, which is not known.",
        "The reason is given for the mapping.",
        "Name more servers.",
        "kodectl nat probe --server HOST:PORT --server HOST:PORT --server HOST:PORT",
    ),
    "ports_predictable": Explanation(
        "Two STUN servers agree, and one of them could have guessed what the other sees.",
        "The NAT gives its ports one after the other, so that who sees one knows the next.",
        "Name a third server.",
        "kodectl nat probe --server HOST:PORT --server HOST:PORT --server HOST:PORT",
    ),
    "ports_not_compared": Explanation(
        "It is not known whether the mapping depends on the port of the destination, beside its address.",
        "No server was asked at two ports of one address: none has them.",
        "It makes no difference for peers. A server with two addresses would show it.",
        "kodectl nat probe --server HOST:PORT",
    ),
    "not_tested": Explanation(
        "The test did not run, or did not come to its end.",
        "The deadline passed before, or what it needs was not there.",
        "Give more time.",
        "kodectl nat probe --deadline 30",
    ),
    "no_nat": Explanation(
        "There is no NAT, so the question does not arise.",
        "Servers see the address and port that the socket has.",
        "Nothing is to be done.",
        "",
    ),
    "gateways_not_asked": Explanation(
        "Routers were not asked for their outer address.",
        "--no-gateway was given.",
        "Leave it out.",
        "kodectl nat probe",
    ),
    "nat_requirement_unmet": Explanation(
        "The NAT lets through less than --require asks for.",
        "udp: a server answered; mapped: one public address and port towards all; punchable: others get in directly or by "
        "hole punching; open: directly. What is not known does not meet it either.",
        "Map or forward the node's ports, or name more servers if it is not known.",
        "kodectl nat map 30303/tcp 30301/udp",
    ),
}
