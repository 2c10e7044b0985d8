"""`kodectl node run`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kodectl.cli.command import command, examples
from kodectl.cli.options import NODE_KEYS, configuration_of, setting
from kodectl.cli.output import Output


@command(
    "run",
    epilog=examples(
        "kodectl node run",
        "kodectl node run --datadir /var/lib/kodectl --bootstrap 'enode://...@192.0.2.1:30303?discport=30301'",
        "kodectl node run --datadir /tmp/b --listen 127.0.0.1:0 --discovery-port 0 --api 127.0.0.1:0 --no-lan",
    ),
)
@setting(*NODE_KEYS, "log_level")
@click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="First line: the passphrase of the node's key.",
)
@click.pass_context
def run(ctx: click.Context, passphrase_file: Path | None, **given: Any) -> None:
    """Run a node until SIGTERM, SIGINT or `kodectl node stop`.

    Prints where it can be reached as soon as it is ready; with --json one line of that, then what happens, one event a
    line. The log goes to stderr. The data directory is made if need be, and with it the node's identity. At SIGHUP the
    configuration file is read again: what can change takes effect, and the log says what needs a new start."""
    from kodectl.cli.process_limits import check_limits

    check_limits()
    # Before anything that opens sockets or starts threads is imported.
    from gevent import monkey

    monkey.patch_all()

    from kodectl.cli.configuration import load_configuration
    from kodectl.cli.reloading import values_of
    from kodectl.cli.serving import serve
    from kodectl.store.keyfile import read_passphrase

    output = ctx.find_object(Output)
    assert output is not None, "the root group puts an Output into every context"
    flags = given_flags(ctx, output, given)
    # What it tells about itself must hold wherever it is read.
    given["datadir"] = flags["datadir"] = given["datadir"].absolute()
    serve(
        output,
        values_of(configuration_of(ctx), flags),
        flags,
        lambda: load_configuration(output.config_path),
        read_passphrase(passphrase_file) if passphrase_file else None,
    )


def given_flags(ctx: click.Context, output: Output, given: dict[str, Any]) -> dict[str, Any]:
    """The settings that the command line gives, by key."""
    by_flag = click.core.ParameterSource.COMMANDLINE
    flags = {key: value for key, value in given.items() if ctx.get_parameter_source(key) is by_flag}
    if output.log_format is not None:
        flags["log_format"] = output.log_format
    if output.quiet:
        flags["log_level"] = "error"
    elif output.verbosity:
        flags["log_level"] = "debug"
    return flags
