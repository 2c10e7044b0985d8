"""Other nodes: reaching them, and why a connection ended."""

from __future__ import annotations

from kodectl.cli.explanations.entry import Explanation

REACHING = {
    "unreachable": Explanation(
        "The target was not reached.",
        "No ping was answered; stage and reason say how far it came: resolve, udp, tcp, handshake, identity.",
        "Check address and port there; a firewall that drops looks like a timeout.",
        "kodectl peer ping TARGET --mode tcp",
    ),
    "no_answer": Explanation(
        "A node did not answer.",
        "A request over UDP was repeated and stayed without response.",
        "Check that it runs and that UDP reaches it.",
        "kodectl peer ping TARGET --mode udp",
    ),
    "stun_refused": Explanation(
        "A STUN server answered, and refused.",
        "Its answer is an error (RFC 8489, section 14.8); the message has its number and words.",
        "401: it serves who has a password. 420: it has one address only, and cannot answer from another. 300: ask another.",
        "kodectl nat probe --server HOST:PORT",
    ),
    "ca_unreadable": Explanation(
        "The file of certificate authorities cannot be used.",
        "It cannot be read, or has no certificate in PEM form.",
        "Name another; without one the machine's own authorities count.",
        "openssl x509 -in FILE -noout -text",
    ),
    "turn_unauthorised": Explanation(
        "A TURN server does not take the user name and password.",
        "It answered 401 or 441 to a request that was sealed with them (RFC 8489, section 9.2).",
        "Check both; those of limited duration expire, and their user name begins with when.",
        "kodectl config show --origin",
    ),
    "turn_untrusted": Explanation(
        "A TURN server over TLS has no certificate that proves its name.",
        "The certificate is of another name, has expired, or comes from an authority that is not trusted here.",
        "Name the server as its certificate does; for authorities of your own set SSL_CERT_FILE.",
        "openssl s_client -connect HOST:PORT -verify_return_error",
    ),
    "turn_refused": Explanation(
        "A TURN server answered, and refused.",
        "Its answer is an error (RFC 8656, section 19); the message has its number and words.",
        "Take another server. 300: it sends its clients to a server that must not, or need not, be followed.",
        "kodectl node run --turn turn:USER:PASS@HOST:3478",
    ),
    "turn_forbidden": Explanation(
        "A TURN server does not relay for this user.",
        "It answered 403 to the request for an allocation.",
        "Ask its operator, or take another server.",
        "kodectl config show --origin",
    ),
    "turn_forbidden_peer": Explanation(
        "A TURN server does not relay to this peer.",
        "It refused a permission (RFC 8656, section 10): most servers do so for loopback and private addresses.",
        "Nothing, where the peer has a public address too. A server for a private network has to allow its addresses.",
        "kodectl nat serve --help",
    ),
    "turn_mismatch": Explanation(
        "A TURN server still holds an older allocation of this very socket.",
        "It answered 437 to the request for an allocation.",
        "Try again from another port, or when the old one has expired, in at most ten minutes.",
        "",
    ),
    "turn_quota": Explanation(
        "A TURN server has no more allocations for this user.",
        "It answered 486.",
        "End other connections of the same user, wait ten minutes for those that were left, or raise its quota.",
        "kodectl nat serve --help",
    ),
    "turn_capacity": Explanation(
        "A TURN server has no relayed address left.",
        "It answered 508.",
        "Try later, or take another server.",
        "kodectl node run --turn turn:USER:PASS@HOST:3478",
    ),
    "turn_family": Explanation(
        "A TURN server does not relay for this address family.",
        "It answered 440.",
        "Use the other family, or another server.",
        "",
    ),
    "turn_transport": Explanation(
        "A TURN server does not relay UDP.",
        "It answered 442.",
        "Take another server.",
        "kodectl node run --turn turn:USER:PASS@HOST:3478",
    ),
    "name_not_resolved": Explanation(
        "The host name has no address.",
        "The resolver said so, or was silent.",
        "Check the spelling and this machine's DNS.",
        "getent hosts NAME",
    ),
    "not_resolved": Explanation(
        "The host name has no address.",
        "The resolver said so, or was silent.",
        "Check the spelling and this machine's DNS.",
        "getent hosts NAME",
    ),
    "no_route": Explanation(
        "There is no address to dial.",
        "The name does not resolve, or the id is known without an address.",
        "Give the enode.",
        "kodectl node connect ENODE",
    ),
    "no_bootstrap_answered": Explanation(
        "None of the bootstrap nodes answered.",
        "Every one was asked and was silent, did not resolve, or was another node.",
        "Name a node that runs, and check that UDP gets out of this network.",
        "kodectl peer ping BOOTSTRAP",
    ),
    "refused": Explanation(
        "The target said no.",
        "TCP was reset (nobody listens on the port), or the node refused the request.",
        "Check the port, and that the node runs.",
        "kodectl peer ping TARGET --mode tcp",
    ),
    "timeout": Explanation(
        "The target was silent until the limit, or a connection lost its heartbeat.",
        "No byte arrived in time.",
        "Check the address; a firewall that drops looks like this. Give more time with --timeout.",
        "kodectl peer ping TARGET",
    ),
    "packet_loss": Explanation(
        "Some pings were answered, some were not.",
        "Fewer answers than pings.",
        "Repeat it; where it stays, look at the link between.",
        "kodectl peer ping TARGET -c 20",
    ),
    "relay_only": Explanation(
        "The target is reached through a relay only.",
        "A relay passes the answers on; none came on a direct path.",
        "Let the ports of one of the two sides in; the doctor there says how.",
        "kodectl doctor",
    ),
    "identity_mismatch": Explanation(
        "Another node answers at this address.",
        "The hash of the key that it proved to have is not the id that was asked for.",
        "The enode is old, or somebody sits between: ask the node's owner for its enode.",
        "kodectl enode verify ENODE",
    ),
    "self": Explanation(
        "The target is this node itself.",
        "The id that was proved is its own.",
        "Choose another target.",
        "kodectl key id",
    ),
    "handshake_failed": Explanation(
        "The encrypted connection was not made.",
        "A message of the Noise handshake, or the signature in it, was not valid.",
        "Something else than a node listens there, or the path alters data.",
        "kodectl peer ping TARGET --mode handshake",
    ),
    "bad_signature": Explanation(
        "Something was not signed by whom it names.",
        "The Ed25519 signature does not fit the text and the key.",
        "Nothing is to be done: it was dropped.",
        "",
    ),
    "clock_skew": Explanation(
        "This clock and those of other nodes differ too much.",
        "Nodes of several networks tell another time, or the other's short-lived key has expired by this clock.",
        "Set the clock, and let an NTP client keep it; the doctor says by how much it is off.",
        "timedatectl set-ntp true",
    ),
    "wrong_network": Explanation(
        "The other node belongs to another network.",
        "Its hello names another; peers of two networks do not mix.",
        "Use the same --network on both, or begin with a node of this one.",
        "kodectl config show --origin",
    ),
    "incompatible_version": Explanation(
        "The two nodes share no version of the protocol.",
        "Each names its versions in its hello, and none is in both.",
        "Update the older one.",
        "kodectl --version",
    ),
    "recently_dialed": Explanation(
        "A dial to this node failed, or ended, a moment ago.",
        "Its pause is not over.",
        "Wait some seconds.",
        "kodectl node connect ENODE",
    ),
    "already_connected": Explanation(
        "The peer is connected already.",
        "A connection of this id is open.",
        "Nothing is to be done.",
        "kodectl node peers",
    ),
}

DISCONNECTS = {
    "unspecified": Explanation(
        "The connection ended without a reason.",
        "It broke off, and no disconnect message came before.",
        "Look into the other node's log, if it is yours.",
        "kodectl peer ping TARGET",
    ),
    "shutting_down": Explanation(
        "The other node was stopped.",
        "It said so as it left.",
        "Nothing is to be done: it is dialled again later.",
        "",
    ),
    "too_many_peers": Explanation(
        "The other node has as many peers as it takes.",
        "It said so.",
        "Try another, or raise the limit of that node, if it is yours.",
        "kodectl node run --max-peers 100",
    ),
    "duplicate_connection": Explanation(
        "Two connections to one peer were made at once.",
        "Both sides dialled.",
        "Nothing is to be done: one of them stays.",
        "",
    ),
    "protocol_error": Explanation(
        "A peer sent what the protocol does not have.",
        "A frame or message did not decode.",
        "It runs other or broken software; that peer alone was disconnected.",
        "",
    ),
    "flooding": Explanation(
        "A peer sent more messages than it may.",
        "Its allowance was used up.",
        "That peer alone was disconnected.",
        "",
    ),
    "slow": Explanation(
        "A peer read more slowly than there was to send.",
        "Its queue reached the limit.",
        "Nothing is to be done: it may come back. Where it happens to all peers, this machine's line is too thin.",
        "",
    ),
    "requested": Explanation(
        "An operator ended the connection.",
        "A command said so.",
        "Connect again, if that was wrong.",
        "kodectl node connect ENODE",
    ),
    "banned": Explanation(
        "The peer is banned.",
        "An operator's ban has not ended.",
        "Lift the ban.",
        "kodectl node unban ID",
    ),
    "subnet_limit": Explanation(
        "Too many peers come from one network.",
        "The /24 (or /64) of the address holds its share of slots.",
        "Nothing is to be done: it keeps one network from surrounding a node.",
        "",
    ),
    "useless": Explanation(
        "A peer gave way to a better one.",
        "It ranked lowest when a slot was needed.",
        "Nothing is to be done; a node that must stay can be named as a validator, or connected by hand.",
        "kodectl node connect ENODE",
    ),
}

CONNECTING = {
    "ice_failed": Explanation(
        "The two sides found no path between them.",
        "None of the pairs of an address here and an address there answered within the time, in both directions.",
        "Name a STUN server, so that the public address is among the candidates, and a TURN server for NATs that cannot be "
        "passed. Both sides must begin within the same seconds.",
        "kodectl nat punch --stun HOST:PORT --turn USER:PASS@HOST:PORT",
    ),
    "ticket_malformed": Explanation(
        "What was given as the other side's ticket is none.",
        "It is neither a line that `kodectl nat punch` printed nor a JSON object with ufrag, pwd and candidates.",
        "Copy the whole line, without line breaks.",
        "kodectl nat punch",
    ),
    "ticket_missing": Explanation(
        "The other side's ticket did not come.",
        "stdin ended before a line.",
        "Give the other side's line on stdin, and keep stdin open until it is there.",
        "kodectl nat punch",
    ),
    "no_echo": Explanation(
        "The two sides agreed on a path, and no datagram came back on it.",
        "None of the pings was echoed, though each was repeated.",
        "The other side may have ended before, or is a program that does not echo.",
        "kodectl nat punch",
    ),
}
