"""The command line: commands parse, call and print; what they do lives elsewhere.

What takes longer to load than most commands take, the database's libraries above all, they import when they run.
"""

from __future__ import annotations

import typer

from server.cli import (
    access_commands,
    client_commands,
    demo_command,
    file_commands,
    import_command,
    promotion_commands,
    protos_command,
    record_commands,
    server_commands,
)


def build_app() -> typer.Typer:
    """Return the command line with all its commands."""
    app = typer.Typer(
        name="modelregistry",
        help="A model registry over gRPC whose main job is promotion.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
    )
    for module in (
        server_commands,
        import_command,
        promotion_commands,
        record_commands,
        client_commands,
        access_commands,
        file_commands,
        demo_command,
        protos_command,
    ):
        module.register(app)
    return app
