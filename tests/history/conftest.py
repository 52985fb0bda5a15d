"""A server over a fresh database, on each backend."""

from __future__ import annotations

from tests.rpc.conftest import admin as admin
from tests.rpc.conftest import jane as jane
from tests.rpc.conftest import registry as registry
