"""openapi-generator reads /openapi.json whole, and its Java client compiles."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from server.gateway.routes import routes_of
from server.rpc.server import SERVICES
from tests.interop.conftest import BUILD_SECONDS, in_shell, pasted
from tools.openapi.document import openapi_of

GENERATOR = "org.openapitools:openapi-generator-cli:7.25.0"
DOCUMENT: dict[str, Any] = openapi_of(routes_of(SERVICES), "1")

pytestmark = pytest.mark.timeout(BUILD_SECONDS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the generator and the document."""
    folder = tmp_path_factory.mktemp("openapi")
    (folder / "openapi.json").write_text(json.dumps(DOCUMENT))
    pasted(f"mvn -q -B dependency:copy -Dartifact={GENERATOR} -DoutputDirectory=.", folder)
    return folder


def test_it_finds_nothing_wrong(folder: Path) -> None:
    said = pasted("java -jar openapi-generator-cli-*.jar validate --recommend -i openapi.json", folder).stdout
    assert "No validation issues detected." in said


def test_its_java_client_has_all_operations_and_schemas_and_compiles(folder: Path) -> None:
    command = "java -jar openapi-generator-cli-*.jar generate -g java --library native -i openapi.json -o java"
    made = in_shell(command, folder)
    assert made.returncode == 0, made.stderr
    said = re.findall(r"^.*\b(?:WARN|ERROR)\b.*$", made.stdout + made.stderr, re.MULTILINE)
    assert [line for line in said if "OpenAPI 3.1 support is still in beta" not in line] == []

    sources = folder / "java/src/main/java/org/openapitools/client"
    apis = "".join(path.read_text() for path in (sources / "api").glob("*Api.java"))
    for path in DOCUMENT["paths"].values():
        for operation in path.values():
            name = operation["operationId"]
            assert re.search(rf" {name[0].lower()}{name[1:]}\(", apis), name
    for keyed in ("promoteVersion", "batchPromoteVersions", "rollbackBranch"):
        assert re.search(rf" {keyed}\([^)]*UUID idempotencyKey[,)]", apis), keyed
    # An answer that says nothing is an Object there.
    schemas = {name for name, schema in DOCUMENT["components"]["schemas"].items() if schema.get("properties") != {}}
    assert schemas <= {path.stem for path in (sources / "model").glob("*.java")}

    pasted("mvn -q -B compile", folder / "java")
