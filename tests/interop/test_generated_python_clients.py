"""What makes clients of /openapi.json in Python reads it whole, and what it makes works."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from server.gateway.routes import routes_of
from server.rpc.server import SERVICES
from tests.gateway.registry import Registry, good, new_registry
from tests.gateway.test_refusals import MODELS
from tests.processes import COMMAND, Server, environment
from tools.openapi.document import openapi_of

# It wants another typer than the server has, so it is installed apart.
OPENAPI_PYTHON_CLIENT = "openapi-python-client==0.29.1"

DOCUMENT: dict[str, Any] = openapi_of(routes_of(SERVICES), "1")
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]
OPERATIONS = [operation["operationId"] for path in DOCUMENT["paths"].values() for operation in path.values()]


@pytest.fixture
def registry(server: Server) -> Iterator[Registry]:
    with new_registry(server) as registry:
        yield registry


def snake(name: str) -> str:
    """A name as in Python: of PromoteVersion, promote_version."""
    return re.sub(r"(?<=[a-z])(?=[A-Z0-9])", "_", name).lower()


def done(*command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command that must succeed."""
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(**variables))
    assert result.returncode == 0, result.stdout + result.stderr
    return result


# openapi-python-client


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with the generator and with all that what it makes needs."""
    folder = tmp_path_factory.mktemp("generator") / "venv"
    done(sys.executable, "-m", "venv", folder)
    done(folder / "bin/pip", "install", "--quiet", "--disable-pip-version-check", OPENAPI_PYTHON_CLIENT)
    return folder / "bin"


PROGRAM = """
import json
import sys

from client import AuthenticatedClient
from client.api.model_service import promote_version
from client.models import Error404, PromoteVersionRequest

url, token, model, version, key = sys.argv[1:]
client = AuthenticatedClient(base_url=url, token=token)


def promoted(version):
    body = PromoteVersionRequest(source_model_version_rid=version, reason="generated")
    return promote_version.sync(model, client=client, body=body, preview=True, idempotency_key=key)


versions = [promoted(version), promoted(version)]
failed = promoted("ri.models.main.model-version.none")
refused = promote_version.sync_detailed(
    model, client=client, preview=True, body=PromoteVersionRequest("ri.models.main.model-version.none")
)
assert isinstance(refused.parsed, Error404)
print(json.dumps({
    "versions": [each.to_dict() for each in versions],
    "failed": failed.error_name.value,
    "refused": refused.parsed.error_name.value,
}))
"""


def test_openapi_python_client_makes_a_client_that_promotes_once_with_a_key(
    generator: Path, registry: Registry, tmp_path: Path
) -> None:
    made = tmp_path / "client"
    url, key = registry.server.url, str(uuid.uuid4())
    done(
        *(generator / "openapi-python-client", "generate", "--fail-on-warning", "--meta", "none"),
        *("--url", f"{url}/openapi.json", "--output-path", made),
        PATH=str(generator),
    )
    (tmp_path / "program.py").write_text(PROGRAM)
    arguments = (url, registry.server.token(), registry.target.rid, registry.source.rid, key)
    told = json.loads(done(generator / "python", tmp_path / "program.py", *arguments).stdout)

    assert {path.stem for path in made.glob("api/*/[a-z]*.py")} == {*map(snake, OPERATIONS)}
    # What is one of several is written out wherever it is held.
    held = {name for name, schema in SCHEMAS.items() if "oneOf" not in schema}
    assert {*map(snake, held)} <= {path.stem for path in made.glob("models/*.py")}
    first, second = told["versions"]
    assert first == second
    (stored,) = good(registry.get(f"{MODELS}/{registry.target.rid}/versions"))["data"]
    assert {**first, "createdTime": None} == {**stored, "createdTime": None}  # which Python writes as +00:00
    assert told["failed"] == "RequestIdAlreadyUsed"
    assert told["refused"] == "ModelVersionNotFound"


# datamodel-code-generator


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The models, made without a warning, and imported."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "openapi.json").write_text(json.dumps(DOCUMENT))
    said = done(
        *(COMMAND.with_name("datamodel-codegen"), "--input", folder / "openapi.json", "--input-file-type", "openapi"),
        *("--output", folder / "models.py", "--output-model-type", "pydantic_v2.BaseModel", "--formatters", "builtin"),
    )
    assert said.stderr == ""
    spec = importlib.util.spec_from_file_location("generated_models", folder / "models.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_datamodel_code_generator_makes_a_model_of_each_schema(models: ModuleType) -> None:
    tree = ast.parse(Path(str(models.__file__)).read_text())
    assert {*SCHEMAS} <= {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


def test_its_models_take_what_the_server_answers_and_nothing_else(models: ModuleType, registry: Registry) -> None:
    answer = good(registry.promote())
    page = good(registry.get("/api/v2/promotions", modelRid=registry.target.rid))
    failure = registry.promote(sourceModelVersionRid="ri.models.main.model-version.none").error

    version = models.ModelVersion.model_validate(answer)
    (promotion,) = models.ListPromotionsResponse.model_validate(page).data
    error = models.Error404.model_validate(failure)

    dumped = version.model_dump(mode="json", exclude_unset=True)
    assert {**dumped, "createdTime": None} == {**answer, "createdTime": None}  # which it writes in microseconds
    assert (version.source.root.type, version.versionNumber) == ("promoted", 1)
    assert promotion.modelVersionRid == version.rid
    assert error.errorName.value == "ModelVersionNotFound"
    for name, wrong in (("ModelVersion", answer | {"source": {"type": "fax"}}), ("Error400", failure)):
        with pytest.raises(ValueError, match="validation error"):
            getattr(models, name).model_validate(wrong)
    with pytest.raises(ValueError, match="forbidden"):
        models.PromoteVersionRequest.model_validate({"sourceModelVersionRid": registry.source.rid, "bogus": 1})
