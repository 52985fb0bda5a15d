"""Resource identifiers: `ri.<service>.<instance>.<type>.<locator>`, at most 255 bytes."""

from __future__ import annotations

import re

from server.core.uuids import new_uuid

MAX_BYTES = 255

MODEL = "model"
MODEL_VERSION = "model-version"
PROMOTION = "promotion"
YANK = "yank"
PROMOTION_REQUEST = "promotion-request"
SUBSCRIPTION = "subscription"
FOLDER = "folder"

_TYPE = "[a-z][a-z0-9-]*"


def pattern(*types: str) -> str:
    """Return the regular expression of RIDs of these types, of any if none is named; its one group is the type."""
    return rf"ri\.[a-z][a-z0-9-]*\.(?:[a-z0-9][a-z0-9-]*)?\.({'|'.join(types) or _TYPE})\.[a-zA-Z0-9._-]+"


_RID = re.compile(pattern())


def rid_type(text: str) -> str | None:
    """Return the type of a RID, such as `model`; None if the text is not a RID."""
    match = _RID.fullmatch(text)
    return match[1] if match and len(text) <= MAX_BYTES else None


def new_model_rid() -> str:
    """Return a RID that no model has."""
    return f"ri.models.main.{MODEL}.{new_uuid()}"


def new_model_version_rid() -> str:
    """Return a RID that no model version has."""
    return f"ri.models.main.{MODEL_VERSION}.{new_uuid()}"


def new_promotion_rid() -> str:
    """Return a RID that no promotion has."""
    return f"ri.models.main.{PROMOTION}.{new_uuid()}"


def new_yank_rid() -> str:
    """Return a RID that no yank has."""
    return f"ri.models.main.{YANK}.{new_uuid()}"


def new_promotion_request_rid() -> str:
    """Return a RID that no request for promotion has."""
    return f"ri.models.main.{PROMOTION_REQUEST}.{new_uuid()}"


def new_subscription_rid() -> str:
    """Return a RID that no subscription has."""
    return f"ri.models.main.{SUBSCRIPTION}.{new_uuid()}"
