"""The commands and their options are those of the contract, each option is an environment variable, all have help."""

from __future__ import annotations

from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from server.cli import build_app

CLIENT_OPTIONS = {"--target", "--token", "--tls", "--ca-cert", "--client-cert", "--client-key"}
PAGE_OPTIONS = {"--page-size", "--page-token"}
PROMOTION_OPTIONS = {"--request-id", "--expected-head", "--reason"}

# By command; what client commands have in common is added below.
OPTIONS: dict[str, set[str]] = {
    "serve": {
        "--listen",
        "--http-listen",
        "--metrics-listen",
        "--database-url",
        "--database-url-file",
        "--data-dir",
        "--files-url",
        "--admin",
        "--admins",
        "--jwks-file",
        "--jwks-url",
        "--jwks-max-age",
        "--issuer",
        "--audience",
        "--audience-claim",
        "--subject-claim",
        "--scope-claim",
        "--scope-prefix",
        "--default-scope",
        "--groups-claim",
        "--leeway",
        "--local-keys",
        "--tls-cert",
        "--tls-key",
        "--tls-client-ca",
        "--max-message-bytes",
        "--disk-reserve",
        "--read-database-url",
        "--read-database-url-file",
        "--read-max-lag",
        "--max-file-bytes-of-principal",
        "--max-file-bytes-of-folder",
        "--max-connection-age",
        "--max-connections",
        "--max-streams",
        "--receive-timeout",
        "--keepalive",
        "--min-ping",
        "--http-idle-timeout",
        "--trusted-proxy",
        "--secrets-key-file",
        "--webhook-allow",
        "--webhook-allow-http",
        "--webhook-ports",
        "--no-reflection",
        "--workers",
    },
    "migrate": {"--database-url", "--database-url-file", "--data-dir"},
    "token": {"--data-dir", "--subject", "--scope", "--group", "--ttl"},
    "import": {"--database-url", "--database-url-file", "--data-dir", "--max-message-bytes"},
    "gc": {"--database-url", "--database-url-file", "--data-dir", "--files-url", "--event-retention"},
    "fsck": {"--database-url", "--database-url-file", "--data-dir", "--files-url", "--without-files", "--output"},
    "demo": {"--prepare", *CLIENT_OPTIONS},
    "protos": {"--out", "--descriptor-set"},
}
CLIENT_COMMANDS: dict[str, set[str]] = {
    "promote": {"--branch", "--yes", "--request", *PROMOTION_OPTIONS},
    "check": {"--branch", *PROMOTION_OPTIONS},
    "promote-batch": {"--file", "--request-id"},
    "rollback": {"--branch", "--to", "--override", *PROMOTION_OPTIONS},
    "list-promotions": {
        "--model",
        "--branch",
        "--source-version",
        "--version",
        "--created-by",
        "--since",
        "--until",
        "--oldest-first",
        *PAGE_OPTIONS,
    },
    "get-promotion": set(),
    "lineage": set(),
    "set-policy": {
        "--branch",
        "--promotion-only",
        "--allow-source",
        "--min-time-as-head",
        "--promoter",
        "--rollbacker",
        "--required-approvals",
        "--approver",
        "--approvals-expire-after",
        "--promote-when-approved",
        "--clear",
        "--expected-revision",
        "--request",
        "--reason",
        "--request-id",
    },
    "get-policy": {"--branch"},
    "lock": {"--reason", "--branch", "--expire-time"},
    "unlock": {"--branch"},
    "yank": {"--reason", "--lineage", "--request-id"},
    "unyank": {"--reason"},
    "events": {
        *("--model", "--folder", "--branch", "--type", "--actor", "--since", "--until", "--after", "--oldest-first"),
        *PAGE_OPTIONS,
        "--output",
    },
    "watch": {"--model", "--folder", "--branch", "--type", "--after", "--output"},
    "yanks": PAGE_OPTIONS,
    "live-copies": PAGE_OPTIONS,
    "rollback-batch": {"--file", "--request-id"},
    "create-subscription": {"--type", "--branch", "--description", "--secret-file", "--request-id"},
    "get-subscription": set(),
    "list-subscriptions": PAGE_OPTIONS,
    "update-subscription": {"--url", "--paused", "--type", "--branch", "--description", "--clear"},
    "rotate-secret": {"--secret-file", "--revoke-previous", "--request-id"},
    "delete-subscription": set(),
    "deliveries": {"--state", *PAGE_OPTIONS},
    "redeliver": {"--after", "--request-id"},
    "request-promotion": {"--branch", *PROMOTION_OPTIONS},
    "review": {"--comment", "--expected-head", "--expected-revision", "--request-id"},
    "withdraw": {"--request-id"},
    "get-request": set(),
    "requests": {"--model", "--branch", "--state", "--requested-by", "--waiting-for-me", *PAGE_OPTIONS},
    "create-model": {"--folder", "--request-id"},
    "create-version": {"--file", "--model-files", "--branch", "--request-id"},
    "get-model": set(),
    "get-version": set(),
    "get-branch": {"--branch"},
    "list-models": {"--folder", *PAGE_OPTIONS},
    "list-branches": PAGE_OPTIONS,
    "list-versions": {"--branch", *PAGE_OPTIONS},
    "upload-files": set(),
    "download-files": {"--to"},
    "grant": set(),
    "revoke": set(),
    "grants": PAGE_OPTIONS,
    "grant-changes": PAGE_OPTIONS,
    "set-folder-policy": set(),
    "get-folder-policy": set(),
    "transfer-ownership": set(),
    "disable-principal": {"--reason"},
    "enable-principal": set(),
    "disabled-principals": PAGE_OPTIONS,
}
OPTIONS |= {name: own | CLIENT_OPTIONS | {"--output"} for name, own in CLIENT_COMMANDS.items()}


def commands() -> dict[str, Any]:
    return typer.main.get_command(build_app()).commands


def options_of(command: Any) -> dict[str, Any]:
    """A command's options by their flag."""
    return {parameter.opts[0]: parameter for parameter in command.params if parameter.opts[0].startswith("--")}


def help_of(command: str) -> str:
    result = CliRunner().invoke(build_app(), [command, "--help"], env={"COLUMNS": "300", "NO_COLOR": "1"})
    assert result.exit_code == 0
    return result.output


def test_the_commands_are_those_of_the_contract() -> None:
    assert set(commands()) == set(OPTIONS)


@pytest.mark.parametrize("command", OPTIONS)
def test_a_command_has_the_options_of_the_contract(command: str) -> None:
    assert set(options_of(commands()[command])) == OPTIONS[command]


@pytest.mark.parametrize("command", OPTIONS)
def test_every_option_is_an_environment_variable_and_says_so(command: str) -> None:
    shown = help_of(command)
    for flag, parameter in options_of(commands()[command]).items():
        variable = "MODELREGISTRY_" + flag.removeprefix("--").replace("-", "_").upper()
        assert parameter.envvar == variable
        assert f"[env var: {variable}]" in shown


@pytest.mark.parametrize("command", OPTIONS)
def test_every_option_is_explained(command: str) -> None:
    assert all(parameter.help for parameter in options_of(commands()[command]).values())


@pytest.mark.parametrize("command", OPTIONS)
def test_help_shows_an_example(command: str) -> None:
    before_the_options, _, _ = help_of(command).partition("─ Options")
    examples = [line for line in before_the_options.splitlines() if f"modelregistry {command}" in line]
    assert [line for line in examples if "Usage:" not in line]
