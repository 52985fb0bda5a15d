"""Prints the document of this release."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

from server.gateway.routes import routes_of
from server.rpc.server import SERVICES
from tools.openapi.document import openapi_of

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def main() -> None:
    """Print one line of JSON without a line end: the bytes that a server sends."""
    version = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]["version"]
    print(json.dumps(openapi_of(routes_of(SERVICES), version)), end="")


if __name__ == "__main__":
    main()
