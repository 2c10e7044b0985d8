"""Who may call the API: the Host and Origin checks against browsers, and the token.

A browser lets any page send requests to localhost. A page of another site cannot choose the `Host` (its own name, even
when that name was rebound to 127.0.0.1) nor leave out the `Origin` of what it posts; these two close that door.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import stat
from pathlib import Path

import msgspec

from kodectl.api.files import TOKEN_FILE
from kodectl.errors import EnvironmentFault, NotAuthorised

MIN_TOKEN_CHARS = 32
"""128 bits in hex; what is shorter can be guessed over the network."""
MAX_TOKEN_BYTES = 4096
"""A token file is one line; more is some other file."""


class AccessRules(msgspec.Struct, frozen=True, kw_only=True):
    host_names: frozenset[str] = frozenset()
    """Names and addresses, beside loopback, that may stand in `Host`; lower case, without port."""
    any_address: bool = False
    """Any IP address may stand in `Host`: the API listens on all of them. A rebound name is still refused."""
    token: str | None = None


def check_host(rules: AccessRules, host: str | None) -> None:
    if host is not None and host_allowed(rules, host):
        return
    raise NotAuthorised(
        f"Host {host!r} is not served here" if host else "the request has no Host",
        code="host_not_allowed",
        hint="use localhost or 127.0.0.1, or start the node with --api-name NAME",
    )


def host_allowed(rules: AccessRules, authority: str) -> bool:
    name = host_of(authority)
    if name == "localhost" or name in rules.host_names:
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or rules.any_address


def host_of(authority: str) -> str:
    """The host of `host:port`, lower case; an IPv6 address without its brackets."""
    if authority.startswith("["):
        return authority[1:].partition("]")[0].lower()
    return authority.rpartition(":")[0].lower() if ":" in authority else authority.lower()


def check_origin(origin: str | None, host: str | None, fetch_site: str | None, fetch_mode: str | None) -> None:
    """Refuses what a page of another origin sends. Programs send neither header.

    `Sec-Fetch-Site` tells of the cross-site requests that carry no Origin (images, scripts); a followed link is none
    of them."""
    if origin is not None:
        foreign = host is None or origin.partition("://")[2].lower() != host.lower()
    else:
        foreign = fetch_site in ("cross-site", "same-site") and fetch_mode != "navigate"
    if foreign:
        raise NotAuthorised(
            f"requests from the origin {origin or 'of another site'} are refused",
            code="origin_not_allowed",
            hint="call the API from a program, or from a page that the node itself serves",
        )


def check_token(rules: AccessRules, authorization: str | None) -> None:
    if rules.token is None:
        return
    scheme, _, given = (authorization or "").partition(" ")
    # Compared as bytes: compare_digest takes ASCII text only, and the header can hold anything.
    if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), rules.token.encode()):
        return
    raise NotAuthorised(
        "the API token is wrong" if authorization else "the API asks for a token",
        hint=f"send 'Authorization: Bearer' with the contents of {TOKEN_FILE} in the node's data directory",
    )


def is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def load_token(path: Path) -> str:
    """The token in `path`. Raises EnvironmentFault (api_token_required, api_token_unsafe)."""
    recipe = f"openssl rand -hex 32 > {path} && chmod 600 {path}"
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(MAX_TOKEN_BYTES)
    except OSError as error:
        raise EnvironmentFault(
            f"the API needs a token here, and {path} cannot be read: {error.strerror}",
            code="api_token_required",
            hint=recipe,
        ) from error
    if mode & 0o077:
        raise EnvironmentFault(
            f"{path} can be read by others (mode {mode:04o})", code="api_token_unsafe", hint=f"chmod 600 {path}"
        )
    token = content.decode("ascii", "replace").strip()
    if len(token) < MIN_TOKEN_CHARS or not token.isascii() or not token.isprintable():
        raise EnvironmentFault(
            f"{path} holds no usable token: at least {MIN_TOKEN_CHARS} printable ASCII characters on one line",
            code="api_token_unsafe",
            hint=recipe,
        )
    return token
