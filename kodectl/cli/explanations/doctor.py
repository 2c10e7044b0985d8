"""What the doctor finds, beside what other commands run into as well."""

from __future__ import annotations

from kodectl.cli.explanations.entry import Explanation

DOCTOR = {
    "disk_low": Explanation(
        "Little space is left where the node keeps its data.",
        "The file system of the data directory has less than 64 MB free.",
        "Free space, or keep the data elsewhere with --datadir.",
        "df -h DATADIR",
    ),
    "key_replaced": Explanation(
        "The node runs with another identity than the one in its key file.",
        "The file's node id is not the one that the node tells.",
        "Start the node again if the new identity is meant; otherwise put the old file back.",
        "kodectl key id",
    ),
    "fd_limit_low": Explanation(
        "The limit of open files is lower than what the node may need.",
        "It is below the sum of peers, API connections, relayed addresses and files.",
        "Raise it before the start (in a systemd unit: LimitNOFILE=), or lower --max-peers.",
        "ulimit -n 4096",
    ),
    "api_exposed": Explanation(
        "The node's API answers other machines without a token.",
        "A request without a token to an address of this machine that is not loopback was answered, as something "
        "passes it on.",
        "End what forwards to it (a proxy, a published port of a container), or ask for a token on loopback too.",
        "kodectl node run --api-token required",
    ),
    "node_not_answering": Explanation(
        "A node's process is there, and its API does not answer.",
        "The data directory is locked, and a request to its socket got no answer in time.",
        "Look into its log; end the process if need be, and start it again.",
        "kodectl node health live",
    ),
    "clock_unsynchronised": Explanation(
        "It is not known whether this clock is right.",
        "The kernel says that nobody keeps it so (adjtimex), and no other node was there to compare it with.",
        "Let an NTP client (systemd-timesyncd, chrony) keep it.",
        "timedatectl set-ntp true",
    ),
    "bootstrap_silent": Explanation(
        "Some bootstrap nodes do not answer; others do.",
        "Their answers were waited for, each for four seconds after its name was found.",
        "Replace those that are gone for good; the node is joined meanwhile.",
        "kodectl node bootstrap",
    ),
    "advertised_address_wrong": Explanation(
        "The node tells others an address at which it is not.",
        "Other nodes see its datagrams come from another address than the one in its enode.",
        "Leave the address to be found out (--nat auto, and --listen on all addresses), or name the right one.",
        "kodectl node run --nat extip:IP",
    ),
    "cgnat": Explanation(
        "The provider shares one public IPv4 address among several customers (carrier-grade NAT).",
        "The router's outer address, this machine's, or the second router on the way out is of 100.64.0.0/10 (RFC "
        "6598).",
        "Ask the provider for an address of one's own, or listen on IPv6; until then others come by hole punching or "
        "relays.",
        "kodectl nat probe",
    ),
    "nat_symmetric": Explanation(
        "The NAT gives the node another outer port towards each destination, so that nobody can be told where it is.",
        "Other nodes, or STUN servers, each see another port.",
        "Let the node ask the router for its ports (--nat auto), or forward them there by hand; without that, relays "
        "carry the traffic.",
        "kodectl node run --nat auto",
    ),
    "nat_not_forwarded": Explanation(
        "A NAT lets in nobody whom the node has not sent to, and no port is forwarded.",
        "Knocks of other nodes did not arrive, though they see the node at one and the same address and port.",
        "Let the node ask the router for its ports (--nat auto), or forward them there by hand. Peers connect by "
        "hole punching meanwhile.",
        "kodectl node run --nat auto",
    ),
    "nat_unknown": Explanation(
        "Nothing is known of the NAT, or of who gets in.",
        "Too few nodes of other networks, and no STUN server that can tell, were there to ask.",
        "Name more bootstrap nodes, or STUN servers with two addresses (RFC 5780).",
        "kodectl doctor --bootstrap ENODE --stun HOST:PORT",
    ),
    "firewalled": Explanation(
        "There is no NAT, but a firewall drops what nobody asked for.",
        "Others see this machine's own address, and their knocks did not arrive.",
        "Let the node's UDP and TCP ports in. The doctor, as root, says whether it is this machine's firewall or one "
        "before it.",
        "kodectl doctor --check nat_class",
    ),
    "inbound_blocked": Explanation(
        "What strangers send to one of the node's ports does not arrive.",
        "At least two nodes have knocked, or had others knock, and nothing came.",
        "Let the port in on this machine or in the firewall before it; behind a router, forward it there.",
        "kodectl doctor --check inbound_tcp --check inbound_udp",
    ),
    "table_empty": Explanation(
        "The routing table has no node.",
        "No bootstrap node, remembered node or neighbour has answered; or those that did serve the table no more "
        "than this one.",
        "Mend what keeps them from answering, or begin with a node that strangers reach; then look again.",
        "kodectl node rediscover",
    ),
    "dials_fail": Explanation(
        "Hardly any dial to a peer connects.",
        "Of the dials since the start, at least five failed for each one that connected.",
        "Look up the outcome that is named most often. That some fail is usual: addresses grow old, and full nodes "
        "say no.",
        "kodectl node stats",
    ),
    "undecided": Explanation(
        "The doctor could not find out what it was asked.",
        "A check ended without a result, and no other has found anything wrong.",
        "The check says what it lacks.",
        "kodectl doctor",
    ),
}
