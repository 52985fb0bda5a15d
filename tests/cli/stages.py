"""What the tests of promotions promote: versions that break somebody, or not, from one model into another."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

import grpc

from modelregistry.v1.model_api_pb2 import ModelApi
from server.codec.json_form import from_json
from tests.processes import Server
from tests.rpc.harness import User


def parameter(name: str) -> dict[str, Any]:
    return {"type": "parameter", "name": name, "required": True, "dataType": {"type": "integer"}}


def table(*columns: str) -> dict[str, Any]:
    described = [{"name": name, "required": False, "dataType": {"type": "integer"}} for name in columns]
    return {"type": "tabular", "name": "df", "required": True, "format": "PANDAS", "columns": described}


# The first is what callers and consumers have. The second takes a column less, which warns; the third returns nothing,
# which breaks consumers.
APIS: dict[str, dict[str, Any]] = {
    "first": {"inputs": [table("age", "country")], "outputs": [parameter("risk")]},
    "warns": {"inputs": [table("age")], "outputs": [parameter("risk")]},
    "breaks": {"inputs": [table("age", "country")], "outputs": []},
}
WARNING, ERROR = 'inputs["df"].columns["country"]', 'outputs["risk"]'


@dataclass(frozen=True)
class Stages:
    """A model with one version of each kind, and a model that the first is live in."""

    server: Server
    admin: User
    folder: str
    staging: str
    production: str
    first: str
    warns: str
    breaks: str
    live: str

    def numbers(self, branch: str = "master") -> list[int]:
        """The numbers of the versions of a branch of production, newest first."""
        answer = self.admin("ListModelVersions", model_rid=self.production, branch=branch)
        return [version.version_number for version in answer.model_versions]

    def promote(self, source: str, **fields: Any) -> Any:
        """Promote a version into production, without the command."""
        request = {"model_rid": self.production, "source_model_version_rid": source, "preview": True}
        return self.admin("PromoteVersion", **request | fields)

    def records(self) -> list[Any]:
        """The promotions into production, newest first."""
        return list(self.admin("ListPromotions", model_rid=self.production).promotions)


def new_stages(server: Server, channel: grpc.Channel) -> Stages:
    admin, folder = server.user(channel), f"ri.compass.main.folder.{uuid.uuid4()}"
    staging, production = (admin.create_model(name, folder) for name in ("staging", "production"))
    made = [admin.create_version(staging, model_api=from_json(api, ModelApi)) for api in APIS.values()]
    live = admin.promote(made[0], production)
    return Stages(server, admin, folder, staging.rid, production.rid, *(version.rid for version in made), live.rid)
