"""The command `modelregistry`."""

import os
import sys
from typing import TextIO


def main() -> None:
    """Run the command line."""
    # gRPC reads this when it is imported. Its core would write lines of its own among ours, which say the same.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115 - for as long as the process runs
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
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
