"""Who may do what: the role that each act takes, and each RPC's scope and role, in one table."""

from __future__ import annotations

from typing import NamedTuple

from modelregistry.v1.access_service_pb2 import (
    ROLE_EDITOR,
    ROLE_OWNER,
    ROLE_PROMOTER,
    ROLE_VIEWER,
    Role,
)

MODELS_READ = "api:models-read"
MODELS_WRITE = "api:models-write"
SCOPES = (MODELS_READ, MODELS_WRITE)

# Roles are numbers, each including the smaller ones, so `role >= TO_PROMOTE` is the question.
TO_READ = ROLE_VIEWER
TO_PROMOTE = ROLE_PROMOTER
TO_CREATE_VERSIONS = ROLE_EDITOR
TO_CREATE_MODELS = ROLE_EDITOR
TO_MANAGE_GRANTS = ROLE_OWNER
TO_SET_POLICIES = ROLE_OWNER


class Permission(NamedTuple):
    """What an RPC takes: a scope of the token, and a role on the resource that it acts on."""

    scope: str
    role: Role.ValueType


_MODELS = "/modelregistry.v1.ModelService/"
_PROMOTIONS = "/modelregistry.v1.PromotionService/"
_ACCESS = "/modelregistry.v1.AccessService/"

# Every RPC of this service by its full method name; one that is missing cannot be called.
PERMISSIONS: dict[str, Permission] = {
    _MODELS + "CreateModel": Permission(MODELS_WRITE, TO_CREATE_MODELS),
    _MODELS + "GetModel": Permission(MODELS_READ, TO_READ),
    _MODELS + "ListModels": Permission(MODELS_READ, TO_READ),
    _MODELS + "CreateModelVersion": Permission(MODELS_WRITE, TO_CREATE_VERSIONS),
    _MODELS + "GetModelVersion": Permission(MODELS_READ, TO_READ),
    _MODELS + "GetBranch": Permission(MODELS_READ, TO_READ),
    _MODELS + "ListBranches": Permission(MODELS_READ, TO_READ),
    _MODELS + "ListModelVersions": Permission(MODELS_READ, TO_READ),
    _MODELS + "PromoteVersion": Permission(MODELS_WRITE, TO_PROMOTE),
    _MODELS + "UploadModelFiles": Permission(MODELS_WRITE, TO_CREATE_VERSIONS),
    _MODELS + "DownloadModelFiles": Permission(MODELS_READ, TO_READ),
    _PROMOTIONS + "CheckPromotion": Permission(MODELS_READ, TO_READ),
    _PROMOTIONS + "BatchPromoteVersions": Permission(MODELS_WRITE, TO_PROMOTE),
    _PROMOTIONS + "RollbackBranch": Permission(MODELS_WRITE, TO_PROMOTE),
    _PROMOTIONS + "GetPromotion": Permission(MODELS_READ, TO_READ),
    _PROMOTIONS + "ListPromotions": Permission(MODELS_READ, TO_READ),
    _PROMOTIONS + "GetLineage": Permission(MODELS_READ, TO_READ),
    _PROMOTIONS + "SetBranchPolicy": Permission(MODELS_WRITE, TO_SET_POLICIES),
    _PROMOTIONS + "GetBranchPolicy": Permission(MODELS_READ, TO_READ),
    _ACCESS + "GrantRole": Permission(MODELS_WRITE, TO_MANAGE_GRANTS),
    _ACCESS + "RevokeRole": Permission(MODELS_WRITE, TO_MANAGE_GRANTS),
    _ACCESS + "ListGrants": Permission(MODELS_READ, TO_MANAGE_GRANTS),
}

# A server asks itself for its health. The chain of the RPCs serves it to no other caller.
SELF_CHECK = "modelregistry.internal.SelfCheck"

# Served to anyone: a load balancer's probe has no token, and a schema is no secret.
OPEN_SERVICES = frozenset(
    {
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        SELF_CHECK,
    }
)


def is_open(method: str) -> bool:
    """Whether a full method name, `/package.Service/Method`, may be called without credentials."""
    return method.split("/")[1] in OPEN_SERVICES
