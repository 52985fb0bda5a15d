"""The command `modelregistry`."""

from server.cli import build_app


def main() -> None:
    """Run the command line."""
    build_app()()


if __name__ == "__main__":
    main()
