"""Answers of the API that are no view of the node; read by the node's clients too."""

from __future__ import annotations

import msgspec


class EnodeView(msgspec.Struct, frozen=True):
    enode: str


class StopView(msgspec.Struct, frozen=True):
    stopping: bool
