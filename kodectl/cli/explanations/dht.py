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
