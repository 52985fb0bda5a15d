"""The command `modelregistry`."""

import os
import sys
from typing import TextIO


def main() -> None:
    """Run the command line."""
    # gRPC reads this when it is imported. Its core would write lines of its own among ours, which say the same.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # A stream that was closed before the start. In this order each gets its own number, which nothing else then has.
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115 - for as long as the process runs
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        _write_utf8(stream)
    from server.cli import build_app

    try:
        build_app()()
    except OSError as error:
        sys.exit(f"error: {error}")


def _write_utf8(stream: TextIO) -> None:
    """JSON is UTF-8, whatever the locale; and a name that a terminal cannot show must not look like a failure."""
    stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
