"""The failures that promotion alone knows, which `server.errors` lists with the others."""

from __future__ import annotations

from dataclasses import dataclass

from google.rpc import code_pb2

from server.error_base import RegistryError


@dataclass(eq=False, kw_only=True)
class RequestIdAlreadyUsed(RegistryError):
    """The same caller has used the request id for another request of the same RPC."""

    code = code_pb2.ALREADY_EXISTS
    description = "The request id was used for another request before."
    request_id: str


@dataclass(eq=False, kw_only=True)
class BranchHeadChanged(RegistryError):
    """The branch has another head than the caller thinks; an empty actual RID means that it has none."""

    code = code_pb2.ABORTED
    description = "The head of the branch is not the one that was expected."
    model_rid: str
    branch_name: str
    expected_head_version_rid: str
    actual_head_version_rid: str


@dataclass(eq=False, kw_only=True)
class ModelApiIncompatible(RegistryError):
    """The branch enforces compatibility, and the promotion would break somebody. The first findings are violations."""

    code = code_pb2.FAILED_PRECONDITION
    description = "The Model API is not compatible with that of the branch's head; CheckPromotion lists all findings."
    model_rid: str
    branch_name: str
    error_count: int


@dataclass(eq=False, kw_only=True)
class PromotionNotFound(RegistryError):
    """No such promotion, or none that the caller may see."""

    code = code_pb2.NOT_FOUND
    description = "The given Promotion could not be found."
    promotion_rid: str


@dataclass(eq=False, kw_only=True)
class VersionNumberNotFound(RegistryError):
    """A branch that the caller sees has no version of that number."""

    code = code_pb2.NOT_FOUND
    description = "The branch has no version of that number."
    model_rid: str
    branch_name: str
    version_number: int


@dataclass(eq=False, kw_only=True)
class VersionAlreadyHead(RegistryError):
    """The version to go back to is the head of the branch as it is."""

    code = code_pb2.FAILED_PRECONDITION
    description = "The version is the head of the branch already."
    model_rid: str
    branch_name: str
    version_number: int
