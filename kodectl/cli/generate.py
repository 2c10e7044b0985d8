"""Writes completions/ and man/ from the command tree: `python -m kodectl.cli.generate [ROOT]`."""

from __future__ import annotations

import sys
from pathlib import Path

from kodectl.cli.completion import FILES, SCRIPTS
from kodectl.cli.main import cli
from kodectl.cli.man import all_pages


def generated() -> dict[str, str]:
    """Path below the repository's root to content."""
    pages = {f"man/{name}": page for name, page in all_pages(cli).items()}
    return pages | {f"completions/{FILES[shell]}": script for shell, script in SCRIPTS.items()}


def main(root: Path) -> None:
    files = generated()
    for folder in ("man", "completions"):
        (root / folder).mkdir(exist_ok=True)
        for path in (root / folder).iterdir():
            if f"{folder}/{path.name}" not in files:
                path.unlink()
    for name, content in files.items():
        (root / name).write_text(content, encoding="utf-8")
    print(f"wrote {len(files)} files")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
