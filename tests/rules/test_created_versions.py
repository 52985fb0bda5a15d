"""A version that is created is compared with the head that it replaces, whichever that is by then."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_MODE_ENFORCE
from modelregistry.v1.model_api_pb2 import ModelApi
from modelregistry.v1.model_service_pb2 import CreateModelVersionRequest
from server.core.errors import ModelApiIncompatible
from server.rules.models import write_version
from tests import builders
from tests.builders import ADMIN, model_api
from tests.conftest import NewDatabase, OpenRepository


def test_a_head_that_comes_while_contents_are_compared_is_compared_with_instead(
    backend: str, new_database: NewDatabase, open_repository: OpenRepository
) -> None:
    repository = open_repository(new_database(backend, migrated=True))
    model = builders.add_model(repository)
    empty = builders.version(model.rid)
    empty.model_api.CopyFrom(ModelApi())
    builders.append(repository, empty)
    repository.write(lambda tx: tx.add_policy(builders.policy(model.rid, COMPATIBILITY_MODE_ENFORCE), ADMIN.user))
    compared: list[str] = []

    def compare(work: Callable[[], None]) -> None:
        work()
        if not compared:
            # Fits in place of the empty one, and is broken by what is on its way.
            builders.append(repository, builders.version(model.rid))
        compared.append("once")

    with pytest.raises(ModelApiIncompatible):
        write_version(
            repository,
            ADMIN,
            CreateModelVersionRequest(model_rid=model.rid, model_api=model_api("other")),
            compare,
        )
    assert len(compared) == 2
    assert len(repository.read(lambda reader: builders.all_versions(reader, model.rid))) == 2
