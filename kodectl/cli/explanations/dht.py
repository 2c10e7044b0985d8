"""The distributed hash table."""

from __future__ import annotations

from kodectl.cli.explanations.entry import Explanation

DHT = {
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
        "No --key was given, so that one was made up for this time.",
        "Name an identity, to be able to replace the value.",
        "kodectl dht put KEY VALUE --key FILE",
    ),
    "several_publishers": Explanation(
        "Several identities have written under this key.",
        "More than one record was found.",
        "Choose the one that you trust.",
        "kodectl dht get KEY --publisher ID",
    ),
    "nothing_found": Explanation(
        "The crawl met no node.",
        "None of the bootstrap nodes answered, nor anybody whom the state file names.",
        "The message says what happened with each: check their addresses, and whether UDP gets out of this machine.",
        "kodectl peer ping ENODE",
    ),
    "crawl_partial": Explanation(
        "The crawl has ended before everybody was asked.",
        "--deadline or --max-nodes was reached, or too many of those that are named do not answer.",
        "Go on with its state file, and a higher limit.",
        "kodectl dht crawl --state FILE --resume",
    ),
    "only_bootstrap_found": Explanation(
        "Nobody answers but the bootstrap nodes themselves.",
        "Their tables name nobody who answers.",
        "They may have just started, or be a network of their own: begin with another node.",
        "kodectl dht crawl --bootstrap ENODE",
    ),
    "crawl_exists": Explanation(
        "The state file has a crawl in it already.",
        "The file is there and not empty, and --resume was not given.",
        "Go on with it by --resume, or name another file.",
        "kodectl dht crawl --state FILE --resume",
    ),
    "crawl_in_use": Explanation(
        "Another crawl is writing the state file.",
        "The file is locked; the lock goes with its process.",
        "Wait for it, or name another file.",
        "fuser FILE",
    ),
    "crawl_file_unreadable": Explanation(
        "The state file is none of a crawl, or was changed.",
        "A line of it, not the last, is not what a crawl writes.",
        "Begin a new crawl in another file.",
        "head -n 1 FILE",
    ),
    "crawl_file_unwritable": Explanation(
        "The state file cannot be written.",
        "The operating system refused; the message is its own. What was written before is whole.",
        "Check the directory, its permissions, and the free space; then go on with --resume.",
        "df -h",
    ),
    "crawl_of_other_network": Explanation(
        "The state file is a crawl of another network.",
        "Its first line names the network.",
        "Name that with --network, or begin a new crawl in another file.",
        "head -n 1 FILE",
    ),
}
