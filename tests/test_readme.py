"""The shop window stays true."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

from modelregistry.v1.model_pb2 import ModelVersion
from server.cli.server_commands import serve
from server.errors import RegistryError
from server.gateway import errors as gateway_errors
from server.gateway.routes import routes_of
from server.rpc.server import SERVICES
from server.rpc.status import grpc_code
from tests.rpc.test_status import TABLE, sample

README = (Path(__file__).parent.parent / "README.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_the_table_of_errors_is_that_of_the_code() -> None:
    told = {
        name: (code, int(http), tuple(filter(None, parameters.split(", "))))
        for name, code, http, parameters in rows("Errors")
    }
    assert told == TABLE


def test_the_table_of_errors_that_http_alone_has_is_that_of_the_gateway() -> None:
    real = [
        [name, grpc_code(sample(error)), str(error.http_status), ", ".join(sample(error).parameters)]
        for name, error in vars(gateway_errors).items()
        if isinstance(error, type) and error.__module__ == gateway_errors.__name__ and issubclass(error, RegistryError)
    ]
    assert rows("Errors of HTTP alone") == real


def test_the_table_of_routes_is_that_of_the_protos() -> None:
    told = {(cells[0].strip("`").partition("?")[0], cells[1]) for cells in rows("The same over HTTP")}
    assert told == {(f"{route.http_method} {route.path}", route.method.name) for route in routes_of(SERVICES)}


def test_the_table_of_options_is_that_of_serve() -> None:
    told = {}
    for option, variable, default, _ in rows("Configuration"):
        told[option.strip("`").split()[0]] = (variable.strip("`"), default.strip("`"))
    real = {}
    for parameter in inspect.signature(serve, eval_str=True).parameters.values():
        (option,) = parameter.annotation.__metadata__
        default = "" if parameter.default in (None, False) else str(parameter.default)
        real[option.default if isinstance(option.default, str) else option.param_decls[0]] = (option.envvar, default)
    assert told == real


def test_the_shown_version_has_the_keys_of_the_message() -> None:
    shown = re.search(r"promoted it as version 1 of branch master:\n(\{.*?\n\})\n", README, re.DOTALL)
    assert shown
    keys = json.loads(shown[1].replace("{ … }", "{}"))
    assert set(keys) == {field.json_name for field in ModelVersion.DESCRIPTOR.fields}


def test_every_linked_file_is_there() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (Path(__file__).parent.parent / target).exists(), target
