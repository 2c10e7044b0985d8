"""Loaded by schemathesis: keeps what it makes up on this machine, and short.

It generates targets and times by the description; somebody's address must not be dialled, nor a minute be waited."""

import hashlib
from typing import Any

import schemathesis

SHORT_S = 0.05
MOST_S = 60
NOBODY = "127.0.0.1:1"


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    if case.query and "timeout" in case.query:
        case.query["timeout"] = short(case.query["timeout"])
    body = case.body
    if isinstance(body, dict):
        if "timeout_s" in body:
            body["timeout_s"] = short(body["timeout_s"])
        # What is no target by the description is refused before anybody is dialled.
        target = body.get("target")
        if isinstance(target, str) and ":" in target and len(target) <= 1024:
            body["target"] = on_this_machine(target)


def short(seconds: Any) -> Any:
    return SHORT_S if isinstance(seconds, int | float) and SHORT_S < seconds <= MOST_S else seconds


def on_this_machine(target: str) -> str:
    digest = hashlib.sha256(target.encode("utf-8", "replace")).hexdigest()
    return f"enode://{digest}@{NOBODY}" if digest < "8" else NOBODY
