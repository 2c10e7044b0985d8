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
    "negative_answer": Explanation(
        "The question was asked properly, and the answer is no.",
        "Every step worked, and the last one said no.",
        "Nothing is broken; the message names what was asked.",
        "",
    ),
    "partial": Explanation(
        "Only a part of what was asked for was reached.",
        "Some targets answered and some did not.",
        "Look at those that did not; each has a code of its own.",
        "",
    ),
    "bad_scenario": Explanation(
        "A simulation cannot be played as it was asked for.",
        "A number of nodes, a rate, a share or a kind of NAT is not one that there is.",
        "Give what the message names.",
        "kodectl sim --help",
    ),
    "simulation_troubled": Explanation(
        "In the simulated network something did not come off: a message did not reach everybody, a connection was not "
        "made, a value was lost.",
        "The report counts what was to happen and what did.",
        "With much loss and churn it can be in the nature of things; with little it is worth a report, with the seed.",
        "kodectl sim --seed N --json",
    ),
    "simulation_fault": Explanation(
        "A node of the simulation let out an exception: a bug in kodectl, which a real node would have as well.",
        "Every task and callback of the simulated nodes is watched.",
        "Report the command with its seed: it gives the same run again.",
        "kodectl sim --seed N --json",
    ),
    "environment": Explanation(
        "This machine stands in the way.",
        "The operating system refused a call; the message is its own.",
        "Mend what the message names; the doctor looks at the usual suspects.",
        "kodectl doctor",
    ),
    "deadline": Explanation(
        "The time limit passed before an answer.",
        "--timeout, --deadline or the limit of a request ran out; what is known by then is printed first.",
        "Give more time, or find out why the other side is slow or silent.",
        "kodectl COMMAND --deadline 60",
    ),
    "bad_remote_data": Explanation(
        "The other side sent something that cannot be right.",
        "What arrived was checked, and failed.",
        "Nothing is to be done here: the other side runs other or broken software, or is not who it says.",
        "",
    ),
    "malformed": Explanation(
        "Text or bytes that do not decode.",
        "A decoder met a length, character or structure that its format does not have.",
        "For an enode that you typed: compare it with enode://ID@HOST:TCP?discport=UDP. From a peer: its fault.",
        "kodectl enode parse ENODE",
    ),
    "interrupted": Explanation(
        "Somebody pressed Ctrl-C.",
        "SIGINT arrived; what was known by then was written first.",
        "Run the command again when it is wanted.",
        "",
    ),
    "terminated": Explanation(
        "Somebody ended the command.",
        "SIGTERM arrived; what was known by then was written first.",
        "Run the command again when it is wanted.",
        "",
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
        "A value of the hash table has at most 1,000 bytes.",
        "The value is larger.",
        "Store a hash, and the place where the rest can be fetched.",
        "",
    ),
    "payload_too_large": Explanation(
        "A block has at most 4 MiB, a transaction 64 KiB.",
        "The payload is larger.",
        "Send less, or a hash and the place where the rest can be fetched.",
        "",
    ),
    "input_malformed": Explanation(
        "A line of stdin is not what it should be.",
        "A line that begins with { is not JSON, or has no enode, target, addr or id.",
        "Give one target a line, or one JSON object a line.",
        "kodectl node peers --jsonl | kodectl enode parse -",
    ),
    "input_too_long": Explanation(
        "There is too much on stdin.",
        "It has more than 100,000 lines, or a line of more than 4,096 bytes.",
        "Give it in parts.",
        "split -l 50000 FILE",
    ),
    "file_unreadable": Explanation(
        "A file cannot be read.",
        "Opening or reading it failed; the message has the system's word.",
        "Check its name and permissions.",
        "ls -l FILE",
    ),
}
