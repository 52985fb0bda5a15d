"""A server over a fresh database, on each backend; and a story that is yet to be told."""

from __future__ import annotations

import pytest

from tests.history.stories import Story
from tests.rpc.conftest import admin as admin
from tests.rpc.conftest import folder as folder
from tests.rpc.conftest import jane as jane
from tests.rpc.conftest import registry as registry


@pytest.fixture
def story() -> Story:
    return Story()
