"""WatchEvents: what happens is told to whoever watches, once, in order, and as far as they may see it."""

from __future__ import annotations

import pytest

from tests.rpc.harness import User
from tests.rpc.watching import watching

pytestmark = pytest.mark.database("shared")


def test_what_happens_is_told_as_it_is_listed(admin: User) -> None:
    model = admin.create_model("churn")
    with watching(admin, model_rid=model.rid) as watch:
        watch.bookmark()
        version = admin.create_version(model)
        told = watch.next()
        assert (told.event.type, told.event.model_version_rid) == ("modelregistry.version.created.v1", version.rid)
        assert told.cursor == told.event.cursor
        [listed] = admin("ListEvents", model_rid=model.rid, page_size=1).events
        listed.cursor = told.cursor
        assert told.event == listed
