"""The house keeps its shape: who imports whom, what is complete, what is fresh."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from google.api import http_pb2
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

from modelregistry.v1 import (
    access_service_pb2,
    event_service_pb2,
    model_service_pb2,
    promotion_request_service_pb2,
    promotion_service_pb2,
    recall_service_pb2,
    subscription_service_pb2,
)
from server.core.permissions import RPC_SCOPES, SCOPES

ROOT = Path(__file__).parent.parent
SERVER = ROOT / "server"
PROTOS = ROOT / "protos"
GEN = ROOT / "gen"
WELL_KNOWN = Path(protoc.__file__).parent / "_proto"
SERVICES = tuple(
    module.DESCRIPTOR
    for module in (
        model_service_pb2,
        promotion_service_pb2,
        recall_service_pb2,
        promotion_request_service_pb2,
        event_service_pb2,
        subscription_service_pb2,
        access_service_pb2,
    )
)

# What each package of the server may import of the others, from the ground up. `storage.sql` is behind the contract.
MAY_IMPORT: dict[str, set[str]] = {
    "core": set(),
    "codec": {"core"},
    "validation": {"core"},
    "auth": {"core"},
    "storage": {"core"},
    "rules": {"core", "codec", "validation", "storage.contract", "storage.paging", "storage.blobs"},
    "rpc": {"core", "validation", "auth", "storage.contract", "storage.paging", "storage.blobs", "rules"},
    "delivery": {"core", "codec", "storage.contract", "rules"},
    "gateway": {"core", "codec", "validation", "auth", "rpc.health", "rpc.in_process", "rpc.status"},
    # It sees calls as the chain does, and nothing of what these do.
    "observability": {"core", "storage.contract", "rpc.telemetry"},
    "process": {"core", "auth", "storage", "rules", "rpc", "delivery", "gateway", "observability"},
    "cli": {"core", "codec", "auth", "rules", "process"},
    "__main__": {"cli"},
}
# How many packages may stand on each other.
MOST_FLOORS = 8
# Where each library that must not spread may be imported.
CONFINED = {
    "grpc": {"rpc", "gateway", "process", "observability"},
    "grpc_health": {"rpc", "process", "cli"},
    "grpc_status": {"rpc"},
    "modelregistry_client": {"cli"},
    "grpc_reflection": {"rpc"},
    "sqlalchemy": {"storage.sql", "process.app"},
    "alembic": {"storage.sql"},
    "fsspec": {"storage.blobs"},
    "prometheus_client": {"observability"},
    "opentelemetry": {"observability"},
    "jwt": {"auth"},
    "cryptography": {"auth", "storage.sql", "process.healthcheck"},
    "httpcore": {"delivery"},
    "starlette": {"gateway"},
    "httptools": {"gateway.http1"},
    "uvloop": {"gateway"},
    "typer": {"cli"},
    "rich": {"cli"},
    "cachetools": {"storage.sql"},
    "orjson": {"core.logs"},
}


def sources() -> Iterator[tuple[str, Path]]:
    """Every module of the server with its name below `server`, such as `storage.sql.reader`."""
    for path in sorted(SERVER.rglob("*.py")):
        parts = path.relative_to(SERVER).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path


MODULES = dict(sources())


def imports_of(path: Path) -> set[str]:
    """What a file imports, by full name: `import a.b` and `from a import b` both give `a.b`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return found


def own_imports(path: Path) -> set[str]:
    """Which modules of the server a file imports."""
    found = set()
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] == "server":
            candidates = (".".join(parts[1:end]) for end in range(len(parts), 1, -1))
            found.add(next((each for each in candidates if each in MODULES), ""))
    return found


def is_within(module: str, part: str) -> bool:
    return module == part or module.startswith(f"{part}.")


@pytest.mark.parametrize("module", [module for module in MODULES if module])
def test_imports_run_one_way(module: str) -> None:
    part = module.split(".")[0]
    assert part in MAY_IMPORT, f"say in MAY_IMPORT what {part} may import"
    allowed = MAY_IMPORT[part] | {part}
    strays = {name for name in own_imports(MODULES[module]) if not any(is_within(name, each) for each in allowed)}
    assert not strays, f"server.{module} must not import {strays}"


def test_packages_import_each_other_without_a_circle_and_few_stand_on_each_other() -> None:
    below: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        if module:
            part = module.split(".")[0]
            below.setdefault(part, set()).update(name.split(".")[0] for name in own_imports(path) if name)
            below[part].discard(part)
    floors = list(TopologicalSorter(below).static_order())  # Raises CycleError.
    floor: dict[str, int] = {}
    for part in floors:
        floor[part] = 1 + max((floor[each] for each in below[part]), default=0)
    assert max(floor.values()) <= MOST_FLOORS, floor


def test_the_top_level_is_packages_that_say_what_lives_there() -> None:
    assert {path.name for path in SERVER.glob("*.py")} == {"__init__.py", "__main__.py"}
    for package in {path.parent for path in SERVER.rglob("*.py")} - set(
        (SERVER / "storage/sql").rglob("migrations/**")
    ):
        assert ast.get_docstring(ast.parse((package / "__init__.py").read_text())), package


def test_the_python_client_knows_nothing_of_the_server() -> None:
    modules = list((ROOT / "clients/python/modelregistry_client").glob("*.py"))
    assert len(modules) > 3
    assert not any(is_within(name, "server") for path in modules for name in imports_of(path))


def test_only_the_wiring_knows_the_sql_behind_the_contract() -> None:
    importers = {
        module
        for module, path in MODULES.items()
        if any(is_within(name, "storage.sql") for name in own_imports(path)) and not is_within(module, "storage.sql")
    }
    assert importers == {"process.app"}


@pytest.mark.parametrize("library", CONFINED)
def test_libraries_stay_where_they_belong(library: str) -> None:
    importers = {m for m, path in MODULES.items() if any(is_within(name, library) for name in imports_of(path))}
    assert importers, f"{library} is not used: drop its row"
    strays = {module for module in importers if not any(is_within(module, part) for part in CONFINED[library])}
    assert not strays


def test_nothing_reads_the_environment_behind_the_command_line() -> None:
    readers = {m for m, path in MODULES.items() if {"os.environ", "os.getenv"} & _attributes(path)}
    # The command line asks OpenTelemetry's own variables whether it is wanted.
    assert readers <= {"__main__", "process.healthcheck", "cli.server_commands"}


def _attributes(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def test_no_module_outside_the_sql_folder_names_a_dialect() -> None:
    def names_one(path: Path) -> bool:
        code = ast.parse(path.read_text())
        texts = (
            node.value for node in ast.walk(code) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        )
        return any(text in {"sqlite", "postgresql", "postgres"} for text in texts)

    assert all(is_within(module, "storage.sql") for module, path in MODULES.items() if names_one(path))


def test_every_module_is_reached_from_the_command_line() -> None:
    reached, ahead = set(), {"__main__"}
    while ahead:
        module = ahead.pop()
        reached.add(module)
        parents = {module.rpartition(".")[0]} - {""}
        ahead |= (own_imports(MODULES[module]) | parents) - reached - {""}
    # Alembic finds migrations by their folder; the image's health check is a program of its own.
    left_out = {m for m in MODULES if m and m not in reached and not is_within(m, "storage.sql.migrations")}
    assert left_out == {"process.healthcheck"}


def test_every_rpc_has_a_scope() -> None:
    served = {
        f"/{service.full_name}/{method.name}"
        for file in SERVICES
        for service in file.services_by_name.values()
        for method in service.methods
    }
    assert set(RPC_SCOPES) == served
    assert set(RPC_SCOPES.values()) == set(SCOPES)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what protoc makes of the .proto files as they are now."""
    out = tmp_path_factory.mktemp("gen")
    include = [f"-I{folder}" for folder in (PROTOS, Path(http_pb2.__file__).parents[2], WELL_KNOWN)]
    outputs = [f"--python_out={out}", f"--grpc_python_out={out}", f"--descriptor_set_out={out / 'protos.binpb'}"]
    files = [str(path) for path in PROTOS.rglob("*.proto")]
    assert protoc.main(["protoc", *include, *outputs, "--include_source_info", *files]) == 0
    return out


@pytest.fixture(scope="module")
def described(compiled: Path) -> list[descriptor_pb2.FileDescriptorProto]:
    """The .proto files as they are now, comments included."""
    return list(descriptor_pb2.FileDescriptorSet.FromString((compiled / "protos.binpb").read_bytes()).file)


def test_the_generated_code_is_that_of_the_protos(compiled: Path) -> None:
    fresh, committed = (
        {path.relative_to(folder): path.read_text() for path in folder.rglob("*.py")} for folder in (compiled, GEN)
    )
    assert fresh == committed, "run make gen"


def test_the_committed_comments_are_those_of_the_protos(
    described: list[descriptor_pb2.FileDescriptorProto],
) -> None:
    committed = descriptor_pb2.FileDescriptorSet.FromString((GEN / "modelregistry/v1/described.binpb").read_bytes())
    assert {file.name: file for file in committed.file} == {file.name: file for file in described}, "run make gen"


def test_every_field_says_whether_it_must_be_given(
    described: list[descriptor_pb2.FileDescriptorProto],
) -> None:
    for file in described:
        for location in file.source_code_info.location:
            # message_type (4), its index, field (2), its index
            if len(location.path) == 4 and (location.path[0], location.path[2]) == (4, 2):
                message = file.message_type[location.path[1]]
                field = message.field[location.path[3]]
                said = location.leading_comments.strip().split(". ")[0].rstrip(".")
                assert said in {"Required", "Optional", "Output only"}, f"{message.name}.{field.name}"


def test_every_rpc_names_its_scope_and_failures(described: list[descriptor_pb2.FileDescriptorProto]) -> None:
    for file in described:
        for location in file.source_code_info.location:
            # service (6), its index, method (2), its index
            if len(location.path) == 4 and (location.path[0], location.path[2]) == (6, 2):
                service = file.service[location.path[1]]
                method = service.method[location.path[3]]
                scope = RPC_SCOPES[f"/{file.package}.{service.name}/{method.name}"]
                assert f"Scope {scope}" in location.leading_comments
                assert "Fails" in location.leading_comments
