"""The contract stays true: its tables are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

from modelregistry.v1.access_service_pb2 import Role
from modelregistry.v1.compatibility_pb2 import CompatibilityMode, CompatibilityRule
from server.core.errors import RegistryError
from server.core.permissions import RPC_SCOPES
from server.gateway import errors as gateway_errors
from server.gateway.routes import routes_of
from server.rpc.server import SERVICES
from server.rpc.status import grpc_code
from tests.documents import table
from tests.rpc.test_status import TABLE, sample

DOCS = Path(__file__).parent.parent / "docs"
PROTOS = DOCS.parent / "protos/modelregistry/v1"
CONTRACT = (DOCS / "contract.md").read_text()


def test_the_rpcs_are_those_of_the_code_with_their_scopes() -> None:
    routes = {route.rpc: f"`{route.http_method} {route.path}`" for route in routes_of(SERVICES)}
    real = [[rpc.rpartition("/")[2], scope, routes.get(rpc, "")] for rpc, scope in RPC_SCOPES.items()]

    assert [[rpc, scope, route] for rpc, scope, _, route in table(CONTRACT, "RPCs")] == real


def test_the_roles_of_the_rpcs_are_those_that_the_protos_tell() -> None:
    protos = " ".join("".join(path.read_text() for path in PROTOS.glob("*_service.proto")).replace("//", "").split())
    for rpc, scope, role, _ in table(CONTRACT, "RPCs"):
        sentence = protos.partition(f" rpc {rpc}(")[0].rpartition("Scope ")[2].partition(".")[0]
        # What the caller has no role on is left out of this one.
        told = sentence if rpc != "ListModels" else f"{sentence}; viewer on each"
        assert told.startswith(f"{scope}; {role} on "), rpc


def role_name(role: Role.ValueType) -> str:
    return Role.Name(role).removeprefix("ROLE_").lower()


def test_the_roles_are_those_of_the_code_in_their_order() -> None:
    assert [cells[0] for cells in table(CONTRACT, "Roles")] == [role_name(role) for role in Role.values() if role]


def test_the_policies_and_rules_are_those_of_the_protos() -> None:
    for enum, index, prefix in ((CompatibilityMode, 0, "MODE"), (CompatibilityRule, 1, "RULE")):
        told = {cells[0] for cells in table(CONTRACT, "Promotions", index)}
        assert told == {
            enum.Name(number).removeprefix(f"COMPATIBILITY_{prefix}_") for number in enum.values() if number
        }


def test_the_errors_are_those_of_the_code() -> None:
    told = {
        name: (code, int(http), tuple(filter(None, parameters.split(", "))))
        for name, code, http, parameters in table(CONTRACT, "Errors")
    }
    assert told == TABLE


def test_the_errors_that_http_alone_has_are_those_of_the_gateway() -> None:
    real = [
        [name, grpc_code(sample(error)), str(error.http_status), ", ".join(sample(error).parameters)]
        for name, error in vars(gateway_errors).items()
        if isinstance(error, type) and error.__module__ == gateway_errors.__name__ and issubclass(error, RegistryError)
    ]
    assert table(CONTRACT, "Errors of HTTP alone") == real


def test_every_linked_file_is_there() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", CONTRACT):
        assert (DOCS / target).exists(), target
