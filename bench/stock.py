"""What a server holds before it is measured: models and versions, and a caller who may work on them by a grant."""

from __future__ import annotations

from dataclasses import dataclass

from modelregistry.v1.access_service_pb2 import ROLE_OWNER
from modelregistry.v1.model_api_pb2 import Column, DataType, DoubleType, ModelApi, ModelApiInput, TabularType
from modelregistry.v1.model_pb2 import Model, ModelVersion
from tests.rpc.harness import User

FOLDER = "ri.compass.main.folder.bench"
CALLER = "bench"
TARGETS = 32
LISTED = 100


@dataclass(frozen=True)
class Stock:
    """The models by what is done to them, and the version that is read and promoted."""

    source: ModelVersion
    listed: Model
    targets: tuple[Model, ...]
    hot: Model
    growing: dict[int, tuple[Model, ...]]  # by the number of columns of what is created in them


def lay_in(admin: User, user: User, columns: tuple[int, ...]) -> Stock:
    """Create it all. The user becomes owner of the folder, as teams do, and is no administrator."""
    admin("GrantRole", resource_rid=FOLDER, principal=f"user:{CALLER}", role=ROLE_OWNER)
    development = user.create_model("development", FOLDER)
    source = user.create_version(development, model_api=api_of(10))
    listed = user.create_model("listed", FOLDER)
    for _ in range(LISTED):
        user.promote(source, listed)
    return Stock(
        source=source,
        listed=listed,
        targets=_models(user, "target"),
        hot=user.create_model("hot", FOLDER),
        growing={count: _models(user, f"with {count} columns") for count in columns},
    )


def api_of(columns: int) -> ModelApi:
    """The API of a model that takes a table with so many columns."""
    table = [Column(name=f"column_{number}", data_type=DataType(double=DoubleType())) for number in range(columns)]
    return ModelApi(inputs=[ModelApiInput(tabular=TabularType(name="table", columns=table))])


def _models(user: User, name: str) -> tuple[Model, ...]:
    return tuple(user.create_model(f"{name} {number}", FOLDER) for number in range(TARGETS))
