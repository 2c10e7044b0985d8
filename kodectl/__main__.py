"""`python -m kodectl`, and the command `kodectl`."""

from __future__ import annotations

import signal


def main() -> None:
    # Until the command has handlers of its own an interrupt ends the process without a word, not with the traceback of an import.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from kodectl.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
