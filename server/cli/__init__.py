"""The command line: commands parse, call and print; what they do lives elsewhere.

What takes longer to load than most commands take, the database's libraries above all, they import when they run.
"""

from __future__ import annotations

from collections.abc import Callable

import typer
from google.protobuf.message import Message

from server.cli import (
    access_commands,
    database_commands,
    event_commands,
    model_commands,
    promotion_commands,
    protos_command,
    recall_commands,
    request_commands,
    server_commands,
    subscription_commands,
)
from server.cli.connection import client_command


def build_app() -> typer.Typer:
    """Return the command line with all its commands, in the order in which --help lists them."""
    app = typer.Typer(
        name="modelregistry",
        help="A model registry over gRPC whose main job is promotion.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
    )
    client_commands: tuple[Callable[..., Message | None], ...] = (
        promotion_commands.promote,
        promotion_commands.check,
        promotion_commands.promote_batch,
        promotion_commands.rollback,
        promotion_commands.set_policy,
        promotion_commands.get_policy,
        promotion_commands.lock,
        promotion_commands.unlock,
        promotion_commands.get_promotion,
        promotion_commands.list_promotions,
        promotion_commands.lineage,
        recall_commands.yank,
        recall_commands.unyank,
        recall_commands.yanks,
        recall_commands.live_copies,
        recall_commands.rollback_batch,
        request_commands.request_promotion,
        request_commands.review,
        request_commands.withdraw,
        request_commands.get_request,
        request_commands.requests,
        event_commands.events,
        event_commands.watch,
        model_commands.create_model,
        model_commands.create_version,
        model_commands.get_model,
        model_commands.get_version,
        model_commands.get_branch,
        model_commands.list_models,
        model_commands.list_branches,
        model_commands.list_versions,
        subscription_commands.create_subscription,
        subscription_commands.get_subscription,
        subscription_commands.list_subscriptions,
        subscription_commands.update_subscription,
        subscription_commands.rotate_secret,
        subscription_commands.delete_subscription,
        subscription_commands.deliveries,
        subscription_commands.redeliver,
        access_commands.grant,
        access_commands.revoke,
        access_commands.grants,
        access_commands.grant_changes,
        access_commands.set_folder_policy,
        access_commands.get_folder_policy,
        access_commands.transfer_ownership,
        access_commands.disable_principal,
        access_commands.enable_principal,
        access_commands.disabled_principals,
        model_commands.upload_files,
        model_commands.download_files,
    )
    commands: tuple[Callable[..., None], ...] = (
        server_commands.serve,
        database_commands.migrate,
        server_commands.token,
        database_commands.import_,
        *map(client_command, client_commands),
        database_commands.gc,
        database_commands.fsck,
        server_commands.demo,
        protos_command.protos,
    )
    for command in commands:
        app.command(command.__name__.strip("_").replace("_", "-"))(command)
    return app
