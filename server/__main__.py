"""The command `modelregistry`."""

import os


def main() -> None:
    """Run the command line."""
    # gRPC reads this when it is imported. Its core would write lines of its own among ours, which say the same.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from server.cli import build_app

    build_app()()


if __name__ == "__main__":
    main()
