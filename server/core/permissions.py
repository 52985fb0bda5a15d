"""What callers may do: the scope that each RPC wants of a token, and the role that each act wants on its resource."""

from __future__ import annotations

from modelregistry.v1.access_service_pb2 import ROLE_EDITOR, ROLE_OWNER, ROLE_PROMOTER

MODELS_READ = "api:models-read"
MODELS_WRITE = "api:models-write"
SCOPES = (MODELS_READ, MODELS_WRITE)

_MODELS = "/modelregistry.v1.ModelService/"
_PROMOTIONS = "/modelregistry.v1.PromotionService/"
_RECALLS = "/modelregistry.v1.RecallService/"
_REQUESTS = "/modelregistry.v1.PromotionRequestService/"
_EVENTS = "/modelregistry.v1.EventService/"
_SUBSCRIPTIONS = "/modelregistry.v1.SubscriptionService/"
_ACCESS = "/modelregistry.v1.AccessService/"

# Every RPC of this service by its full method name; one that is missing cannot be called.
RPC_SCOPES = {
    _MODELS + "CreateModel": MODELS_WRITE,
    _MODELS + "GetModel": MODELS_READ,
    _MODELS + "ListModels": MODELS_READ,
    _MODELS + "CreateModelVersion": MODELS_WRITE,
    _MODELS + "GetModelVersion": MODELS_READ,
    _MODELS + "GetBranch": MODELS_READ,
    _MODELS + "ListBranches": MODELS_READ,
    _MODELS + "ListModelVersions": MODELS_READ,
    _MODELS + "PromoteVersion": MODELS_WRITE,
    _MODELS + "UploadModelFiles": MODELS_WRITE,
    _MODELS + "DownloadModelFiles": MODELS_READ,
    _PROMOTIONS + "CheckPromotion": MODELS_READ,
    _PROMOTIONS + "BatchPromoteVersions": MODELS_WRITE,
    _PROMOTIONS + "RollbackBranch": MODELS_WRITE,
    _PROMOTIONS + "GetPromotion": MODELS_READ,
    _PROMOTIONS + "ListPromotions": MODELS_READ,
    _PROMOTIONS + "GetLineage": MODELS_READ,
    _PROMOTIONS + "SetBranchPolicy": MODELS_WRITE,
    _PROMOTIONS + "GetBranchPolicy": MODELS_READ,
    _PROMOTIONS + "ListBranchPolicyRevisions": MODELS_READ,
    _PROMOTIONS + "LockBranch": MODELS_WRITE,
    _PROMOTIONS + "UnlockBranch": MODELS_WRITE,
    _PROMOTIONS + "SetFolderBranchPolicy": MODELS_WRITE,
    _PROMOTIONS + "GetFolderBranchPolicy": MODELS_READ,
    _PROMOTIONS + "ListFolderBranchPolicyRevisions": MODELS_READ,
    _RECALLS + "YankVersion": MODELS_WRITE,
    _RECALLS + "UnyankVersion": MODELS_WRITE,
    _RECALLS + "ListYanks": MODELS_READ,
    _RECALLS + "ListLiveCopies": MODELS_READ,
    _RECALLS + "BatchRollback": MODELS_WRITE,
    _REQUESTS + "CreatePromotionRequest": MODELS_WRITE,
    _REQUESTS + "CreatePolicyChangeRequest": MODELS_WRITE,
    _REQUESTS + "ReviewPromotionRequest": MODELS_WRITE,
    _REQUESTS + "WithdrawPromotionRequest": MODELS_WRITE,
    _REQUESTS + "GetPromotionRequest": MODELS_READ,
    _REQUESTS + "ListPromotionRequests": MODELS_READ,
    _EVENTS + "ListEvents": MODELS_READ,
    _EVENTS + "WatchEvents": MODELS_READ,
    _SUBSCRIPTIONS + "CreateSubscription": MODELS_WRITE,
    _SUBSCRIPTIONS + "GetSubscription": MODELS_READ,
    _SUBSCRIPTIONS + "ListSubscriptions": MODELS_READ,
    _SUBSCRIPTIONS + "UpdateSubscription": MODELS_WRITE,
    _SUBSCRIPTIONS + "DeleteSubscription": MODELS_WRITE,
    _SUBSCRIPTIONS + "RotateSubscriptionSecret": MODELS_WRITE,
    _SUBSCRIPTIONS + "ListDeliveries": MODELS_READ,
    _SUBSCRIPTIONS + "RedeliverEvents": MODELS_WRITE,
    _ACCESS + "GrantRole": MODELS_WRITE,
    _ACCESS + "RevokeRole": MODELS_WRITE,
    _ACCESS + "ListGrants": MODELS_READ,
    _ACCESS + "ListGrantChanges": MODELS_READ,
    _ACCESS + "SetFolderPolicy": MODELS_WRITE,
    _ACCESS + "GetFolderPolicy": MODELS_READ,
    _ACCESS + "TransferOwnership": MODELS_WRITE,
    _ACCESS + "DisablePrincipal": MODELS_WRITE,
    _ACCESS + "EnablePrincipal": MODELS_WRITE,
    _ACCESS + "ListDisabledPrincipals": MODELS_READ,
}

# Roles are numbers, each including the smaller ones, so the rules ask `role < TO_PROMOTE`. To read takes any role: a
# caller without one is told that the model is absent.
TO_PROMOTE = ROLE_PROMOTER
TO_OVERRIDE = ROLE_OWNER
TO_CREATE_VERSIONS = ROLE_EDITOR
TO_CREATE_MODELS = ROLE_EDITOR
TO_MANAGE_GRANTS = ROLE_OWNER
TO_SET_POLICIES = ROLE_OWNER
TO_YANK_VERSIONS = ROLE_EDITOR
TO_YANK_LINEAGES = ROLE_OWNER
TO_UNYANK = ROLE_OWNER

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
