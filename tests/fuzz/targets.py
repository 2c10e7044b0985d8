"""The table: every target by its name. Knows nothing of the fuzzer."""

from __future__ import annotations

from fuzz import own_targets, peer_targets, way_targets

TARGETS = {
    target.name: target
    for table in (peer_targets.TARGETS, way_targets.TARGETS, own_targets.TARGETS)
    for target in table
}
