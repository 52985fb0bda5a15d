"""What holds for the models that are created in a folder, and who may say so."""

from __future__ import annotations

from modelregistry.v1.access_service_pb2 import FolderPolicy, GetFolderPolicyRequest, SetFolderPolicyRequest
from server.core.caller import Caller
from server.rules.grants import require_owner
from server.storage.contract import Reader, Transaction


def set_folder_policy(tx: Transaction, caller: Caller, request: SetFolderPolicyRequest) -> FolderPolicy:
    """Set the policy of a folder, which need not hold a model. Raises AccessPermissionDenied."""
    require_owner(tx, caller, request.folder_rid)
    return tx.add_folder_policy(request.folder_rid, request.new_model_owner, caller.user)


def get_folder_policy(reader: Reader, caller: Caller, request: GetFolderPolicyRequest) -> FolderPolicy:
    """Return the policy of a folder. Raises AccessPermissionDenied."""
    require_owner(reader, caller, request.folder_rid)
    return reader.get_folder_policy(request.folder_rid)
