"""`kodectl key`: identities and the files that hold them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kodectl.cli.command import command, examples
from kodectl.cli.options import Function, setting
from kodectl.cli.output import Outcome, Output, pairs

if TYPE_CHECKING:
    from pathlib import Path

    from kodectl.store.keyfile import StoredKey


def file_argument(function: Function) -> Function:
    """FILE, by default the data directory's key, and the passphrase that opens it."""
    function = click.option(
        "--passphrase-file", type=click.Path(), metavar="FILE", help="File whose first line is the passphrase."
    )(function)
    function = setting("datadir")(function)
    return click.argument("file", required=False, type=click.Path(), metavar="[FILE]")(function)


@command("gen", epilog=examples("kodectl key gen", "kodectl key gen validator.key --passphrase-file secret.txt"))
@file_argument
@click.option("--force", is_flag=True, help="Replace a file that exists; the identity in it is lost.")
@click.pass_obj
def gen(output: Output, file: str | None, datadir: Path, passphrase_file: str | None, force: bool) -> Outcome:
    """Make a new identity.

    FILE is node.key in the data directory unless named. It is PEM (PKCS#8), readable by its owner only, and encrypted
    when there is a passphrase.
    """
    from kodectl.cli.identity import key_path, make_directory, open_key, passphrase_of
    from kodectl.store.keyfile import create_key

    path = key_path(file, datadir)
    if file is None:
        make_directory(datadir)
    create_key(path, passphrase_of(passphrase_file), force)
    key = open_key(output, path, passphrase_file)
    return Outcome(_described(path, key), f"{key.node_id.hex()}  {path}")


@command("show", epilog=examples("kodectl key show", "kodectl key show node.key --json"))
@file_argument
@click.option("--reveal", is_flag=True, help="Show the secret seed as well.")
@click.pass_obj
def show(output: Output, file: str | None, datadir: Path, passphrase_file: str | None, reveal: bool) -> Outcome:
    """Show what a key file holds: never the secret, unless asked to."""
    from kodectl.cli.identity import key_path, open_key

    path = key_path(file, datadir)
    key = open_key(output, path, passphrase_file)
    data = _described(path, key)
    if reveal:
        data["seed"] = key.seed.hex()
    return Outcome(data, pairs(data.items()))


@command("id", epilog=examples("kodectl key id"))
@file_argument
@click.pass_obj
def id_(output: Output, file: str | None, datadir: Path, passphrase_file: str | None) -> Outcome:
    """Print the node id of a key."""
    from kodectl.cli.identity import key_path, open_key

    key = open_key(output, key_path(file, datadir), passphrase_file)
    return Outcome({"id": key.node_id.hex()}, key.node_id.hex())


@command("passwd", epilog=examples("kodectl key passwd node.key --new-passphrase-file secret.txt"))
@file_argument
@click.option("--new-passphrase-file", type=click.Path(), metavar="FILE", help="File with the new passphrase.")
@click.option("--decrypt", is_flag=True, help="Write the key without a passphrase.")
@click.pass_obj
def passwd(
    output: Output,
    file: str | None,
    datadir: Path,
    passphrase_file: str | None,
    new_passphrase_file: str | None,
    decrypt: bool,
) -> Outcome:
    """Change, set or remove the passphrase of a key; the identity stays."""
    from kodectl.cli.identity import key_path, open_key, passphrase_of
    from kodectl.store.keyfile import load_key, save_seed

    if (new_passphrase_file is None) != decrypt:
        raise click.UsageError("give either --new-passphrase-file or --decrypt", click.get_current_context())
    path = key_path(file, datadir)
    new_passphrase = passphrase_of(new_passphrase_file)
    save_seed(path, open_key(output, path, passphrase_file).seed, new_passphrase, force=True)
    key = load_key(path, new_passphrase)
    return Outcome(_described(path, key), f"{path} is now {'encrypted' if key.encrypted else 'not encrypted'}")


def _described(path: Path, key: StoredKey) -> dict[str, Any]:
    return {
        "id": key.node_id.hex(),
        "public_key": key.public_key.hex(),
        "file": str(path),
        "encrypted": key.encrypted,
        "mode": f"{key.mode:04o}",
    }
