"""What any command, or any input of it, may run into."""

from __future__ import annotations

from kodectl.cli.explanations.entry import Explanation

GENERAL = {
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
    "malformed_message": Explanation(
        "A message on the WebSocket is not one that the node knows.",
        "It is not JSON, has another op than subscribe and unsubscribe, or a field that these do not have.",
        "Send one of the two; docs/api.md shows them.",
        "kodectl node events",
    ),
    "upgrade_required": Explanation(
        "A request that is no upgrade to a WebSocket came to /ws.",
        "Upgrade, Connection or Sec-WebSocket-Version (13) is missing or another one, or it is not HTTP/1.1.",
        "Connect with a WebSocket client, or poll /api/events. A proxy in between must pass upgrades on.",
        "kodectl node events",
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

INPUT = {
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
