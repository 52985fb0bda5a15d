"""Branch names, display names, page sizes."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import Message

from modelregistry.v1.access_service_pb2 import ListGrantChangesRequest, ListGrantsRequest
from modelregistry.v1.model_pb2 import Model, ModelVersion
from modelregistry.v1.model_service_pb2 import (
    CreateModelRequest,
    GetBranchRequest,
    ListBranchesRequest,
    ListModelsRequest,
    ListModelVersionsRequest,
    PromoteVersionRequest,
)
from server.core.errors import FieldViolation, InvalidBranchName, InvalidDisplayName, InvalidPageSize
from server.validation import validate
from tests.validation.samples import ASTRAL, FOLDER, MODEL, UUID, VERSION, create_version, failure

BRANCH_REQUESTS = [
    lambda branch: create_version(branch=branch),
    lambda branch: GetBranchRequest(model_rid=MODEL, branch=branch),
    lambda branch: ListModelVersionsRequest(model_rid=MODEL, branch=branch),
    lambda branch: PromoteVersionRequest(model_rid=MODEL, source_model_version_rid=VERSION, branch=branch),
    lambda branch: ModelVersion(branch=branch),
]


@pytest.mark.parametrize("request_with", BRANCH_REQUESTS)
def test_a_bad_branch_name_is_named(request_with: Any) -> None:
    for branch in ("", "b" * 256, ASTRAL * 256, MODEL, UUID, UUID.upper(), "ri.a..b.c", "a\nb", "\x9f"):
        error = failure(request_with(branch))

        assert isinstance(error, InvalidBranchName), branch
        assert error.branch_name == branch
        assert [violation.field for violation in error.violations] == ["branch"], branch


@pytest.mark.parametrize("request_with", BRANCH_REQUESTS)
def test_any_other_branch_name_passes(request_with: Any) -> None:
    for branch in (
        "b",
        "b" * 255,
        ASTRAL * 255,
        ".",
        "feature/x y",
        "ri.models",
        f"ri.models.main.model.{UUID}/x",
        UUID[:-1],
        f"x{UUID}",
        f"{UUID}0",
        UUID.replace("-", ""),
        "٠" * 8 + UUID[8:],
    ):
        validate(request_with(branch))


def named(name: str) -> list[Message]:
    return [CreateModelRequest(name=name, parent_folder_rid=FOLDER), Model(name=name)]


def test_a_good_display_name_passes() -> None:
    for name in ("n", "n" * 700, ASTRAL * 700, "...", ".hidden", "a\\b", MODEL, " "):
        for message in named(name):
            validate(message)


def test_a_bad_display_name_is_named() -> None:
    for name in ("", "n" * 701, ASTRAL * 701, ".", "..", "a/b", "/", "a\x00", "\x85", "a/\x00"):
        for message in named(name):
            error = failure(message)

            assert isinstance(error, InvalidDisplayName), name
            assert error.display_name == name
            assert [violation.field for violation in error.violations] == ["name"], name


PAGED = [
    lambda **page: ListModelsRequest(**page),
    lambda **page: ListBranchesRequest(model_rid=MODEL, **page),
    lambda **page: ListModelVersionsRequest(model_rid=MODEL, **page),
    lambda **page: ListGrantsRequest(resource_rid=MODEL, **page),
    lambda **page: ListGrantChangesRequest(resource_rid=MODEL, **page),
]


@pytest.mark.parametrize("request_with", PAGED)
def test_a_page_size_up_to_1000_passes(request_with: Any) -> None:
    for size in (0, 1, 1000):
        validate(request_with(page_size=size))


@pytest.mark.parametrize("request_with", PAGED)
def test_any_other_page_size_is_named(request_with: Any) -> None:
    for size in (-1, 1001, -(2**31), 2**31 - 1):
        error = failure(request_with(page_size=size))

        assert isinstance(error, InvalidPageSize), size
        assert error.page_size == size
        assert error.violations == (FieldViolation("page_size", f"must be 0 to 1000, not {size}"),)


@pytest.mark.parametrize("request_with", PAGED)
def test_a_page_token_is_left_to_its_reader(request_with: Any) -> None:
    for token in ("", "\x00", "nonsense\n"):
        validate(request_with(page_token=token))
