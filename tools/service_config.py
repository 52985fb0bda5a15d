"""Writes the reads into the service config of clients: `python -m tools.service_config FILE`, as `make gen` does.

What else there is, people write: a change is repeated by clients only where its entry says so.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from google.protobuf.descriptor import MethodDescriptor

from server.core.descriptors import service_modules
from server.core.permissions import MODELS_READ, RPC_SCOPES

_BEGIN, _END = '      "name": [\n', "\n      ],\n"


def with_reads(config: str) -> str:
    """Return a service config whose first entry names every RPC that reads, but for those that stream."""
    names = (
        {"service": method.containing_service.full_name, "method": method.name}
        for module in service_modules()
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if _reads(method)
    )
    before, _, rest = config.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return before + _BEGIN + ",\n".join(f"        {json.dumps(name)}" for name in names) + _END + after


def _reads(method: MethodDescriptor) -> bool:
    rpc = f"/{method.containing_service.full_name}/{method.name}"
    return RPC_SCOPES[rpc] == MODELS_READ and not method.server_streaming


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_reads(path.read_text()))
