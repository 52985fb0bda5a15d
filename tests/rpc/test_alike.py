"""A version that is absent and one that is invisible take the same statements, whatever was read before.

`tests/siege/test_timing.py` measures that the time which they take tells nothing, either.
"""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from modelregistry.v1.access_service_pb2 import ROLE_PROMOTER
from modelregistry.v1.model_pb2 import Model, ModelVersion
from modelregistry.v1.recall_service_pb2 import YANK_SCOPE_LINEAGE, Yank
from server.core.rids import new_yank_rid
from tests import builders
from tests.rpc.harness import Registry, User, path_of, request_of
from tests.storage.inspection import statements

ABSENT_MODEL = "ri.models.main.model.99999999-9999-4999-8999-999999999999"
ABSENT_VERSION = "ri.models.main.model-version.99999999-9999-4999-8999-999999999999"

# By RPC, a request of a caller who promotes into `target`: its RIDs are those of the version in question.
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("PromoteVersion", {"model_rid": "target", "source_model_version_rid": "version", "preview": True}),
    ("CheckPromotion", {"model_rid": "target", "source_model_version_rid": "version", "preview": True}),
    ("BatchPromoteVersions", {"promotions": [{"model_rid": "target", "source_model_version_rid": "version"}]}),
    ("CreatePromotionRequest", {"model_rid": "target", "source_model_version_rid": "version"}),
    ("ListPromotions", {"model_version_rid": "version"}),
    ("ListPromotions", {"source_model_version_rid": "version"}),
    ("GetLineage", {"model_version_rid": "version"}),
    ("ListYanks", {"model_version_rid": "version"}),
    ("ListLiveCopies", {"model_version_rid": "version"}),
    ("YankVersion", {"model_rid": "target", "model_version_rid": "version", "scope": 1, "reason": "poisoned"}),
    ("GetModelVersion", {"model_rid": "model", "model_version_rid": "version"}),
    ("DownloadModelFiles", {"model_rid": "model", "model_version_rid": "version"}),
]


@pytest.fixture
def target(admin: User) -> Model:
    """A model into which jane may promote."""
    target = admin.create_model("target")
    admin.promote(admin.create_version(admin.create_model("live")), target)
    admin("GrantRole", resource_rid=target.rid, principal="user:jane", role=ROLE_PROMOTER)
    return target


@pytest.fixture
def hidden(admin: User, registry: Registry) -> ModelVersion:
    """A version that jane may not see, made by a promotion and yanked; nothing has read it yet."""
    secret = admin.create_model("secret")
    source = builders.append(registry.repository, builders.version(secret.rid, "other", size=2**20))
    version = builders.promote(registry.repository, source, secret.rid)
    yanked = Yank(rid=new_yank_rid(), model_version_rid=version.rid, scope=YANK_SCOPE_LINEAGE, yanked_by="user:admin")
    registry.repository.write(lambda tx: tx.add_yank(yanked))
    return version


def filled_in(fields: Any, rids: dict[str, str]) -> Any:
    """The fields of a request, with RIDs for their names."""
    if isinstance(fields, dict):
        return {name: filled_in(value, rids) for name, value in fields.items()}
    if isinstance(fields, list):
        return [filled_in(value, rids) for value in fields]
    return rids.get(fields, fields) if isinstance(fields, str) else fields


def sent(user: User, rpc: str, **fields: Any) -> list[str]:
    """The statements of a call: of one that looks for a version, how it finds that, and not what it reads of it."""
    request = request_of(rpc, **fields).SerializeToString()
    call = user.channel.unary_stream if rpc == "DownloadModelFiles" else user.channel.unary_unary
    failure: Any = None
    with statements() as executed:
        try:
            answer = call(path_of(rpc))(request, metadata=user.metadata, timeout=60)
            assert rpc != "DownloadModelFiles" or not list(answer)
        except grpc.RpcError as error:
            failure = error
    assert failure is None or failure.code() == grpc.StatusCode.NOT_FOUND, failure
    found = "WHERE versions.id = CASE"
    return [text[text.rfind(found) :] if found in text else text for text in (each.statement for each in executed)]


@pytest.mark.parametrize(("rpc", "fields"), CALLS)
def test_an_absent_and_an_invisible_version_take_the_same_statements(
    rpc: str, fields: dict[str, Any], admin: User, jane: User, target: Model, hidden: ModelVersion
) -> None:
    rids = {"target": target.rid, "model": hidden.model_rid, "version": hidden.rid}
    absent = {"target": target.rid, "model": ABSENT_MODEL, "version": ABSENT_VERSION}

    never_read = sent(jane, rpc, **filled_in(fields, rids))
    assert never_read
    admin("GetModelVersion", model_rid=hidden.model_rid, model_version_rid=hidden.rid)
    read_by_others = sent(jane, rpc, **filled_in(fields, rids))

    assert never_read == read_by_others == sent(jane, rpc, **filled_in(fields, absent))
