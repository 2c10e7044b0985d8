"""Which running node a command talks to: the options that say so, and the client made of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kodectl.cli.options import configuration_of, setting, time_limits
from kodectl.cli.output import Output

if TYPE_CHECKING:
    from kodectl.cli.client import NodeClient

Function = Callable[..., Any]


def on_node(timeout_s: float = 5.0, deadline_s: float = 15.0) -> Callable[[Function], Function]:
    """The options of a command on a running node; it gets them as `output` and `client`."""

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def with_client(
            datadir: Path,
            api: tuple[str, int],
            token_file: Path | None,
            timeout_s: float,
            deadline_s: float,
            **rest: Any,
        ) -> Any:
            # The framework minds `deadline_s`.
            ctx = click.get_current_context()
            client = client_of(ctx, datadir, api, token_file, min(timeout_s, deadline_s))
            try:
                return function(output=ctx.find_object(Output), client=client, **rest)
            finally:
                client.close()

        decorated = click.option(
            "--token-file",
            type=click.Path(path_type=Path, dir_okay=False),
            help="The API's token; default: the data directory's, for an API of this machine.",
        )(with_client)
        return setting("datadir", "api")(time_limits(timeout_s, deadline_s)(decorated))

    return decorate


def client_of(
    ctx: click.Context, datadir: Path, api: tuple[str, int], token_file: Path | None, timeout_s: float
) -> NodeClient:
    from kodectl.cli.client import NodeClient, endpoint_of

    endpoint = endpoint_of(
        datadir, api, datadir_given=_given(ctx, "datadir"), api_given=_given(ctx, "api"), token_file=token_file
    )
    return NodeClient(endpoint, timeout_s)


def _given(ctx: click.Context, key: str) -> bool:
    """By flag or variable, for this very command; a configuration file describes the machine's node."""
    if ctx.get_parameter_source(key) is click.core.ParameterSource.COMMANDLINE:
        return True
    return configuration_of(ctx).get(key).origin.startswith("KODECTL_")
