"""What every error code means, and what mends it. A test finds the codes in the source and misses none here."""

from __future__ import annotations

from typing import NamedTuple

from kodectl.errors import ExitCode


class Explanation(NamedTuple):
    cause: str
    recognised: str
    """By which observation the code is given."""
    mend: str
    command: str
    """What to type; empty where no command helps (null in JSON)."""


EXIT_CODES: dict[ExitCode, str] = {
    ExitCode.OK: "the question asked was answered well",
    ExitCode.INTERNAL: "internal error: a bug (traceback with --debug only)",
    ExitCode.USAGE: "usage",
    ExitCode.NEGATIVE: "negative answer: unreachable, not found, check failed",
    ExitCode.DEGRADED: "degraded or partial: relay only, some targets failed",
    ExitCode.NO_NODE: "the node's API is not reachable, or no bootstrap node answered",
    ExitCode.NOT_AUTHORISED: "not authorised",
    ExitCode.ENVIRONMENT: "local environment: port in use, bad key file, unwritable path, no network",
    ExitCode.DEADLINE: "deadline reached before an answer",
    ExitCode.BAD_REMOTE: "bad remote data: wrong identity, bad signature, protocol error",
    ExitCode.SIGINT: "SIGINT",
    ExitCode.SIGPIPE: "closed pipe",
    ExitCode.SIGTERM: "SIGTERM",
}

_GENERAL = {
    "internal_error": Explanation(
        "A bug in kodectl.",
        "An exception that no code expects reached the end of the command.",
        "Run the command again with --debug, and report what it shows.",
        "kodectl --debug ...",
    ),
    "usage": Explanation(
        "The command line cannot be understood: an unknown option, a missing or a malformed argument.",
        "The parser of the command refused it before anything was done.",
        "Read the command's help.",
        "kodectl COMMAND --help",
    ),
    "unknown_topic": Explanation(
        "There is no topic or type of events by this name.",
        "It is none of the topics (node, peer, nat, dht, message), nor one of the types that belong to them.",
        "Name a topic, or a type such as block, transaction or peer_connected; docs/api.md has them all.",
        "kodectl node events --topic message",
    ),
    "negative_answer": Explanation(
        "The question was asked properly, and the answer is no.",
        "Every step worked, and the last one said no.",
        "The message names what was asked.",
        "",
    ),
    "partial": Explanation(
        "Only a part of what was asked for was reached.",
        "Some targets answered and some did not.",
        "Look at the parts that failed; each has a reason of its own.",
        "",
    ),
    "environment": Explanation(
        "This machine stands in the way.",
        "The operating system refused a call; the message is its own.",
        "Mend what the message names.",
        "",
    ),
    "deadline": Explanation(
        "The time limit passed before an answer.",
        "--timeout, --deadline or the limit of the request ran out.",
        "Give more time, or find out why the other side is slow or silent.",
        "kodectl COMMAND --deadline 60",
    ),
    "bad_remote_data": Explanation(
        "The other side sent something that cannot be right.",
        "A check of what arrived failed.",
        "Nothing is to be done here; the other side runs other or broken software, or is not who it says.",
        "",
    ),
    "malformed": Explanation(
        "Text or bytes that do not decode.",
        "A decoder met a length, character or structure that its format does not have.",
        "For an enode that you typed: compare it with enode://ID@HOST:TCP?discport=UDP. From a peer: its fault.",
        "kodectl enode parse ENODE",
    ),
    "interrupted": Explanation("Ctrl-C.", "SIGINT arrived.", "Partial results were written before the end.", ""),
    "terminated": Explanation(
        "Somebody ended the command.", "SIGTERM arrived.", "Partial results were written before the end.", ""
    ),
    "output_failed": Explanation(
        "The result cannot be written.",
        "Writing to stdout failed, as on a full disk.",
        "Free space, or send the output elsewhere.",
        "df -h",
    ),
}

_INPUT = {
    "bad_target": Explanation(
        "What names a node is no enode, node id or HOST:PORT.",
        "None of the three forms fits, or the form lacks what the command needs (an id, an address).",
        "Copy the enode as the other node prints it.",
        "kodectl enode parse ENODE",
    ),
    "bad_node_id": Explanation(
        "A node id has 64 hex digits.",
        "The text has another length or other characters.",
        "Copy the id whole.",
        "kodectl key id",
    ),
    "malformed_key": Explanation(
        "A key in the path of a request is not UTF-8.",
        "Its percent-encoding gives bytes that are no text.",
        "Encode the key as UTF-8; other bytes can be named by the command line.",
        "kodectl dht get --help",
    ),
    "malformed_id": Explanation(
        "An id in a request is not hex, or too long.",
        "The path of the request has other characters where an id belongs.",
        "Give the peer's id, or enough of its first digits.",
        "kodectl node peers",
    ),
    "ambiguous_id": Explanation(
        "Several peers' ids begin with these digits.",
        "More than one peer matches.",
        "Give more digits.",
        "kodectl node peers",
    ),
    "bad_sort": Explanation(
        "Peers cannot be sorted by that.",
        "The name is none of latency, trust, since, bytes.",
        "Use one of those.",
        "kodectl node peers --sort latency",
    ),
    "bad_direction": Explanation(
        "A peer's direction is inbound or outbound.",
        "The name is neither.",
        "Use one of those.",
        "kodectl node peers --direction inbound",
    ),
    "bad_ttl": Explanation(
        "A record lives between a second and 48 hours.",
        "The time to live is outside.",
        "Choose a time within, and publish again before it ends.",
        "kodectl dht put KEY VALUE --ttl 86400",
    ),
    "ttl_too_long": Explanation(
        "Nodes keep a record for 48 hours at most.",
        "--ttl is longer.",
        "Choose a time within, and publish again before it ends.",
        "kodectl dht put KEY VALUE --ttl 86400",
    ),
    "value_too_large": Explanation(
        "A value has at most 1,000 bytes.",
        "The value is larger.",
        "Store a hash and a place instead.",
        "",
    ),
    "payload_too_large": Explanation(
        "A block has at most 4 MiB, a transaction 64 KiB.",
        "The payload is larger.",
        "Split it.",
        "",
    ),
    "input_malformed": Explanation(
        "A line of stdin is not what it should be.",
        "A line that begins with { is not JSON, or has no enode, target, addr or id.",
        "Give one target a line, or one JSON object a line.",
        "kodectl node peers --jsonl | kodectl enode parse -",
    ),
    "input_too_long": Explanation(
        "Too much on stdin.",
        "More than 100,000 lines, or a line of more than 4,096 bytes.",
        "Give it in parts.",
        "",
    ),
    "file_unreadable": Explanation(
        "A file cannot be read.", "Opening or reading it failed.", "Check its name and permissions.", "ls -l FILE"
    ),
}

_CONFIGURATION = {
    "config_invalid": Explanation(
        "The configuration file cannot be read as TOML.",
        "The TOML parser refused it, or it is larger than 1 MiB.",
        "Mend the line that the message names.",
        "kodectl config check",
    ),
    "config_invalid_value": Explanation(
        "A setting has a value that cannot be.",
        "The value of a variable or of a key in the file does not parse; the message says what it should be.",
        "Correct it where the message says it comes from.",
        "kodectl config show --origin",
    ),
    "config_unknown_key": Explanation(
        "The file has a key, or the environment a KODECTL_ variable, that is no setting.",
        "The name is in no list of settings; the message has the nearest that is.",
        "Correct the spelling, or remove it.",
        "kodectl config init --stdout",
    ),
    "config_unreadable": Explanation(
        "The configuration file cannot be read.",
        "Opening or reading it failed.",
        "Check its name and permissions.",
        "kodectl config check --config FILE",
    ),
}

_KEYS = {
    "key_missing": Explanation(
        "There is no key file of this name.", "Opening it says so.", "Make one.", "kodectl key gen FILE"
    ),
    "key_exists": Explanation(
        "There is a file of this name already.",
        "The name was taken when the file should get it.",
        "Choose another name, or give --force: then the old file, and an identity in it, is lost.",
        "kodectl key show FILE",
    ),
    "key_unreadable": Explanation(
        "The key file cannot be read.",
        "Opening or reading it failed, or it is no regular file.",
        "Run the command as the file's owner.",
        "ls -l FILE",
    ),
    "key_malformed": Explanation(
        "The file is no key file, or is cut short.",
        "It has no PEM block, or the block no PKCS#8 structure.",
        "Restore it from a backup, or make a new identity under another name.",
        "kodectl key gen OTHER",
    ),
    "key_wrong_kind": Explanation(
        "The file holds a key, but none that a node can use.",
        "The PEM is no private key in PKCS#8, or its algorithm is not Ed25519.",
        "Use an Ed25519 key.",
        "openssl genpkey -algorithm ed25519",
    ),
    "key_encrypted": Explanation(
        "The key is encrypted, and no passphrase was given.",
        "The PEM says ENCRYPTED PRIVATE KEY.",
        "Give the passphrase in a file that only you can read.",
        "kodectl key show FILE --passphrase-file SECRET",
    ),
    "key_wrong_passphrase": Explanation(
        "The passphrase does not open the key.",
        "Decrypted with it, the file is noise; a damaged file looks the same.",
        "Check the first line of the passphrase file.",
        "kodectl key show FILE --passphrase-file SECRET",
    ),
    "key_exposed": Explanation(
        "Others than the owner can read the key file.",
        "Its mode has bits for group or others.",
        "Take them away; if others use this machine, make a new identity.",
        "chmod 600 FILE",
    ),
    "users_exposed": Explanation(
        "Others than the owner can read the file of users.",
        "Its mode has bits for group or others.",
        "Take them away; if others use this machine, change the passwords.",
        "chmod 600 FILE",
    ),
    "passphrase_invalid": Explanation(
        "The passphrase file holds no passphrase.",
        "Its first line is empty, or it has more than 1,024 bytes.",
        "Write the passphrase into its first line.",
        "",
    ),
    "passphrase_unreadable": Explanation(
        "The passphrase file cannot be read.", "Opening it failed.", "Check its name and permissions.", "ls -l FILE"
    ),
    "file_exists": Explanation(
        "There is a file of this name already.",
        "The name was taken when the file should get it.",
        "Choose another name, or give --force: then the old file is lost.",
        "ls -l FILE",
    ),
    "path_unwritable": Explanation(
        "A file cannot be written there.",
        "Making it, writing it, syncing it or naming it failed; nothing was replaced.",
        "Check the directory, its permissions, and the free space.",
        "df -h; ls -ld DIRECTORY",
    ),
}

_MACHINE = {
    "port_in_use": Explanation(
        "Another process listens on this port.",
        "Binding the socket says so; the message names the process where it may be seen.",
        "Stop it, or choose another port; 0 takes any that is free.",
        "kodectl node run --listen 0.0.0.0:0 --discovery-port 0 --api 127.0.0.1:0",
    ),
    "address_not_available": Explanation(
        "This machine does not have the address to listen on.",
        "Binding the socket says so.",
        "Listen on 0.0.0.0 or ::, or on an address that is here.",
        "ip address",
    ),
    "permission": Explanation(
        "This user may not open the port.",
        "Binding the socket says so; ports below 1024 belong to root.",
        "Choose a higher port, or grant CAP_NET_BIND_SERVICE.",
        "",
    ),
    "too_many_open_files": Explanation(
        "The process has as many files and sockets open as it may.",
        "The system refuses another.",
        "Raise the limit.",
        "ulimit -n 4096",
    ),
    "no_network": Explanation(
        "This machine has no default route.",
        "No address could be chosen to reach the world from.",
        "Connect it, or give the address.",
        "kodectl enode gen --ip IP",
    ),
    "address_guessed": Explanation(
        "The address was taken from an interface, not from what others see.",
        "No node runs here that could be asked.",
        "Behind a NAT, give the address that is seen from outside.",
        "kodectl enode gen --ip IP",
    ),
    "datadir_in_use": Explanation(
        "Another node uses this data directory.",
        "It holds the directory's lock, or answers on its socket.",
        "Stop it, or give this one a directory of its own.",
        "kodectl node stop",
    ),
    "unix_socket": Explanation(
        "The API's unix socket cannot be made.",
        "Binding it failed, or something else has its name.",
        "Move that away; check the data directory's permissions.",
        "ls -l DATADIR",
    ),
    "store": Explanation(
        "What should survive a restart cannot be read or written.",
        "The store in the data directory refused.",
        "Check free space and permissions; the node goes on with what it has in memory.",
        "df -h",
    ),
    "store_too_new": Explanation(
        "The data directory was used by a later kodectl.",
        "The schema of its store is newer than this program.",
        "Update kodectl, or take another data directory.",
        "kodectl --version",
    ),
    "disk_full": Explanation(
        "No space is left on the disk.", "A write of the store says so.", "Free some space.", "df -h"
    ),
    "lan": Explanation(
        "The local network cannot be used for announcements.",
        "Opening the broadcast and multicast socket failed.",
        "Nothing, if there is no local network; else see which process has UDP port 30301.",
        "kodectl node run --no-lan",
    ),
}

_NODE = {
    "node_not_running": Explanation(
        "No node answers.",
        "Nothing listens on the data directory's socket or on the API's address.",
        "Start one, or name the right one.",
        "kodectl node run",
    ),
    "node_stopping": Explanation(
        "The node is on its way out.", "It said so.", "Wait, and start it again.", "kodectl node run"
    ),
    "not_a_node": Explanation(
        "Something else listens at the API's address.",
        "The answer is not what a node's API answers.",
        "Name the node's API, or its data directory.",
        "kodectl node status --api HOST:PORT",
    ),
    "not_authorised": Explanation(
        "The API wants a token.",
        "The request carried none, or another one.",
        "Run the command as the node's user, or give it the token file.",
        "kodectl node status --datadir DIRECTORY",
    ),
    "socket_not_yours": Explanation(
        "The node's socket belongs to another user.",
        "Connecting to it was refused.",
        "Run the command as that user, or use the API over TCP.",
        "kodectl node status --api HOST:PORT",
    ),
    "token_unreadable": Explanation(
        "The API's token file cannot be read.", "Opening it failed.", "Run as its owner.", "ls -l DATADIR"
    ),
    "api_token_required": Explanation(
        "The API would be open to others without a token.",
        "--api is not a loopback address, and there is no token file.",
        "Make a token file in the data directory, or listen on loopback.",
        "kodectl node run --api 127.0.0.1:8545",
    ),
    "api_token_unsafe": Explanation(
        "The token file protects nothing.",
        "Others can read it, or it is too short to be a secret.",
        "Take the others' permissions away; put at least 32 random characters into it.",
        "chmod 600 FILE",
    ),
    "peer_not_connected": Explanation(
        "The node has no such peer.",
        "No connection of this id is open.",
        "List the peers; connect to it first.",
        "kodectl node peers",
    ),
    "not_connected": Explanation(
        "A target was not connected.",
        "The node tried; each target has its outcome: refused, timeout, too_many_peers, identity_mismatch, ...",
        "Explain the outcome.",
        "kodectl node connect ENODE --jsonl",
    ),
    "no_peers": Explanation(
        "The node has nobody to send it to.",
        "No peer is connected.",
        "Connect to one, or wait until the node has found some.",
        "kodectl node wait --for peers=1",
    ),
    "unhealthy": Explanation(
        "A check of the node failed.",
        "The probe that was asked for (live, ready, startup) has a check that is not ok; the message names it.",
        "Mend what the check names.",
        "kodectl node status",
    ),
    "busy": Explanation(
        "The node has too many requests in hand.",
        "A limit on what it serves at a time was reached.",
        "Try again shortly.",
        "",
    ),
}

_HTTP = {
    "body_too_large": Explanation(
        "The body of the request is larger than the route takes.", "Its length.", "Send less.", ""
    ),
    "headers_too_large": Explanation("The headers of the request are too large.", "Their length.", "Send less.", ""),
    "uri_too_long": Explanation("The address of the request is too long.", "Its length.", "Send less.", ""),
    "incomplete_body": Explanation(
        "The body of the request ended early.", "Fewer bytes than announced.", "Send it whole.", ""
    ),
    "malformed_body": Explanation(
        "The body of the request is not the JSON that the route takes.",
        "It does not parse, or misses a field.",
        "Compare it with docs/api.md; the message names the field.",
        "",
    ),
    "malformed_request": Explanation(
        "The request is not HTTP that the API takes.", "Its first line or a header.", "Send HTTP/1.1.", ""
    ),
    "media_type_not_supported": Explanation(
        "The API takes JSON only.",
        "The Content-Type is another.",
        "Say so.",
        "curl -H 'Content-Type: application/json' ...",
    ),
    "transfer_encoding_not_supported": Explanation(
        "The API takes no transfer encoding but chunked.", "The header names another.", "Send it plainly.", ""
    ),
    "request_timeout": Explanation(
        "The request came too slowly.", "Its headers or body took longer than the limit.", "Send it faster.", ""
    ),
    "host_not_allowed": Explanation(
        "The API does not answer to this host name; a web page could have rebound it.",
        "The Host header is neither loopback nor a configured name.",
        "Use 127.0.0.1, or configure the name.",
        "kodectl node run --api-name NAME",
    ),
    "origin_not_allowed": Explanation(
        "A web page of another origin asked.",
        "The Origin header is not the API's own.",
        "Pages of other origins are not served.",
        "",
    ),
    "method_not_allowed": Explanation(
        "The route does not take this method.", "GET, POST or PUT is another.", "See /openapi.json.", ""
    ),
    "route_not_found": Explanation("The API has no such route.", "The path.", "The routes are in docs/api.md.", ""),
}

_REACHING = {
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
        "kodectl explain turn_unauthorised",
    ),
    "turn_forbidden": Explanation(
        "A TURN server does not relay for this user.",
        "It answered 403 to the request for an allocation.",
        "Ask its operator, or take another server.",
        "kodectl explain turn_unauthorised",
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
        "kodectl explain turn_refused",
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
        "kodectl explain turn_quota",
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
        "kodectl explain turn_refused",
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
        "No answer came on a direct path.",
        "Open or map a port on one of the two sides.",
        "",
    ),
    "identity_mismatch": Explanation(
        "Another node answers at this address.",
        "The hash of the key that it proved to have is not the id that was asked for.",
        "The enode is old, or somebody sits between: ask the node's owner for its enode.",
        "kodectl enode verify ENODE",
    ),
    "self": Explanation(
        "The target is this node itself.", "The id that was proved is its own.", "Choose another target.", ""
    ),
    "handshake_failed": Explanation(
        "The encrypted connection was not made.",
        "A message of the Noise handshake, or the signature in it, was not valid.",
        "Something else than a node listens there, or the path alters data.",
        "kodectl peer ping TARGET --mode handshake",
    ),
    "bad_signature": Explanation(
        "Something was not signed by whom it names.",
        "The Ed25519 signature does not fit.",
        "It was dropped; nothing is to be done.",
        "",
    ),
    "clock_skew": Explanation(
        "The clocks of the two nodes differ too much.",
        "The other's short-lived key has expired by this clock.",
        "Set the clock.",
        "timedatectl",
    ),
    "wrong_network": Explanation(
        "The other node belongs to another network.",
        "Its hello names another.",
        "Use the same --network on both.",
        "kodectl config show --origin",
    ),
    "incompatible_version": Explanation(
        "The two nodes share no version of the protocol.", "Their hellos.", "Update the older one.", "kodectl --version"
    ),
    "recently_dialed": Explanation(
        "A dial to this node failed, or ended, a moment ago.",
        "Its pause is not over.",
        "Wait some seconds.",
        "kodectl node connect ENODE",
    ),
    "already_connected": Explanation("The peer is connected already.", "Its connection is open.", "Nothing.", ""),
}

_DISCONNECTS = {
    "unspecified": Explanation(
        "The connection ended without a reason.", "No disconnect message came.", "Look at the other node's log.", ""
    ),
    "shutting_down": Explanation("The other node was stopped.", "It said so.", "It is dialled again later.", ""),
    "too_many_peers": Explanation(
        "The node has as many peers as it takes.",
        "It said so.",
        "Try another, or raise its limit.",
        "kodectl node run --max-peers 100",
    ),
    "duplicate_connection": Explanation(
        "Two connections to one peer were made at once.", "Both sides dialled.", "Nothing: one of them stays.", ""
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
        "A peer read more slowly than there was to send.", "Its queue reached the limit.", "It may come back.", ""
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
        "Too many peers from one network.",
        "The /24 (or /64) of the address holds its share of slots.",
        "Nothing: it keeps one network from surrounding a node.",
        "",
    ),
    "useless": Explanation(
        "A peer gave way to a better one.", "It ranked lowest when a slot was needed.", "Nothing.", ""
    ),
}

_DHT = {
    "not_found": Explanation(
        "What was looked for is not there.",
        "The closest nodes were asked and do not have it.",
        "A node behind a NAT is in no routing table; a record may have expired. Try again from another bootstrap node.",
        "kodectl dht find-node ID --trace",
    ),
    "value_not_found": Explanation(
        "There is no record under this key.",
        "The closest nodes were asked and have none.",
        "It may have expired, or was never stored.",
        "kodectl dht get KEY",
    ),
    "not_stored": Explanation(
        "No node keeps the record.",
        "All that were asked refused or were silent.",
        "Try again; a newer record of the same publisher, or a quota, refuses.",
        "kodectl dht get KEY --records",
    ),
    "partly_stored": Explanation(
        "Fewer nodes keep the record than were asked.",
        "Some refused or were silent.",
        "It is found all the same; publish again for more copies.",
        "kodectl dht put KEY VALUE",
    ),
    "ephemeral_publisher": Explanation(
        "The value was signed by an identity that is gone.",
        "No --key was given.",
        "Name an identity, to be able to replace the value.",
        "kodectl dht put KEY VALUE --key FILE",
    ),
    "several_publishers": Explanation(
        "Several identities have written under this key.",
        "More than one record was found.",
        "Choose the one that you trust.",
        "kodectl dht get KEY --publisher ID",
    ),
}

_GATEWAYS = {
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

_NAT = {
    "udp_blocked": Explanation(
        "UDP does not get out of this network.",
        "No STUN server answered over UDP, and at least one of them answered over TCP.",
        "Allow UDP out, at least to the discovery ports of peers (30301).",
        "kodectl nat probe --server HOST:PORT",
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

_CONNECTING = {
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

EXPLANATIONS: dict[str, Explanation] = {
    **_GENERAL,
    **_INPUT,
    **_CONFIGURATION,
    **_KEYS,
    **_MACHINE,
    **_NODE,
    **_HTTP,
    **_REACHING,
    **_DISCONNECTS,
    **_DHT,
    **_GATEWAYS,
    **_NAT,
    **_CONNECTING,
}
