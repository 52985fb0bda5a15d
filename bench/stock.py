"""What a server holds before it is measured: models and versions, and a caller who may work on them by a grant."""

from __future__ import annotations

from functools import cached_property

from google.protobuf.duration_pb2 import Duration

from modelregistry.v1.access_service_pb2 import ROLE_OWNER
from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_MODE_ENFORCE_TRANSITIVE
from modelregistry.v1.model_api_pb2 import Column, DataType, DoubleType, ModelApi, ModelApiInput, TabularType
from modelregistry.v1.model_pb2 import Model, ModelVersion
from modelregistry.v1.promotion_pb2 import AllowedSource, AllowedSources, Principals
from tests.rpc.harness import User

FOLDER = "ri.compass.main.folder.bench"
CALLER = "bench"
LISTED = 100


class Stock:
    """The models by what is done to them, and the version that is read and promoted; made when they are first needed.

    The user becomes owner of their folder, as teams do, and is no administrator.
    """

    def __init__(self, admin: User, user: User):
        admin("GrantRole", resource_rid=FOLDER, principal=f"user:{CALLER}", role=ROLE_OWNER)
        self._user = user
        self._models: dict[str, tuple[Model, ...]] = {}

    @cached_property
    def source(self) -> ModelVersion:
        """A version with 10 columns."""
        return self._user.create_version(self.models("development", 1)[0], model_api=api_of(10))

    @cached_property
    def listed(self) -> Model:
        """A model whose branch has a full page of versions."""
        model = self.models("listed", 1)[0]
        for _ in range(LISTED):
            self._user.promote(self.source, model)
        return model

    def protected(self, name: str, count: int) -> tuple[Model, ...]:
        """So many models whose branch has every rule of a policy but approvals, which count for one promotion each."""
        if name in self._models:
            return self._models[name]
        models, source = self.models(name, count), self.source
        for model in models:
            self._user(
                "SetBranchPolicy",
                model_rid=model.rid,
                compatibility=COMPATIBILITY_MODE_ENFORCE_TRANSITIVE,
                promotion_only=True,
                allowed_sources=AllowedSources(sources=[AllowedSource(model_rid=source.model_rid)]),
                min_time_as_head=Duration(nanos=1_000_000),
                promoters=Principals(principals=[f"user:{CALLER}"]),
                rollbackers=Principals(principals=[f"user:{CALLER}"]),
            )
        return models

    def models(self, name: str, count: int) -> tuple[Model, ...]:
        """So many models, the same ones for the same name."""
        if name not in self._models:
            names = (f"{name} {number}" for number in range(count))
            self._models[name] = tuple(self._user.create_model(each, FOLDER) for each in names)
        return self._models[name]


def api_of(columns: int) -> ModelApi:
    """The API of a model that takes a table with so many columns."""
    table = [Column(name=f"column_{number}", data_type=DataType(double=DoubleType())) for number in range(columns)]
    return ModelApi(inputs=[ModelApiInput(tabular=TabularType(name="table", columns=table))])
