"""Three nodes as deploy/ha describes them, with the database that it describes, on one machine."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.ha.guard import guarded
from tests.ha.links import LOOPBACK
from tests.ha.nodes import RECIPE, SUPERUSER, Node, await_that
from tests.postgres import MEMORY, PROGRAMS, folder_open_to_all, installation, memory_has_room

NAMES = ("a", "b", "c")
DATABASE, OWNER, SERVER = "modelregistry", "modelregistry_owner", "modelregistry_server"


class Cluster:
    """Three nodes in temporary folders of their own. In a `with` statement they are started, and removed at the end."""

    def __init__(self) -> None:
        # The same for everything: that roles have rights of their own is not tried here.
        self._password = secrets.token_hex(16)
        self._exits = contextlib.ExitStack()
        self.nodes: list[Node] = []
        self.folder = Path()

    def __enter__(self) -> Cluster:
        with contextlib.ExitStack() as exits:
            place = MEMORY if memory_has_room() else folder_open_to_all()
            self.folder = Path(tempfile.mkdtemp(prefix="modelregistry-ha-", dir=place))
            exits.enter_context(guarded(self.folder))
            self.nodes = [Node(name, self.folder) for name in NAMES]
            for node in self.nodes:
                exits.callback(node.close)
            names = ("SUPERUSER_PASSWORD", "REPLICATION_PASSWORD", "REWIND_PASSWORD")
            for node in self.nodes:
                node.join(self.nodes, dict.fromkeys(names, self._password))
            for node in self.nodes:
                node.start_etcd()
            for node in self.nodes:
                node.start_patroni()
            self.await_whole()
            self._create_database()
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    def url(self, user: str) -> str:
        """Where clients find whichever node is the primary: the multi-host URL of the recipe."""
        hosts = "&".join(f"host={LOOPBACK}:{node.postgres_port}" for node in self.nodes)
        return f"postgresql://{user}:{self._password}@/{DATABASE}?{hosts}&target_session_attrs=read-write"

    def primary(self) -> Node:
        """The node that has the lease in etcd."""
        (found,) = (node for node in self.nodes if node.says("leader"))
        return found

    def let_etcd_be_led_by(self, leader: Node) -> None:
        """Make etcd's leader this node, the worst one to lose together with the primary."""
        member_id = leader.etcd("maintenance/status", {})["header"]["member_id"]
        for node in self.nodes:
            if node.leads_etcd and node is not leader:
                node.etcd("maintenance/transfer-leadership", {"targetID": member_id})
        await_that(lambda: leader.leads_etcd, "etcd does not change its leader")

    def await_whole(self) -> None:
        """Wait until one node is the primary and each other one keeps up, so that any of them can fail."""
        try:
            await_that(self._is_whole, "the cluster does not become whole")
        except AssertionError as error:
            said = "\n".join(node.said() for node in self.nodes)
            raise AssertionError(f"{error}:\n{said}") from None

    def _is_whole(self) -> bool:
        views = [node.says("cluster") for node in self.nodes]
        return all(view and sum(map(_keeps_up, view["members"])) == len(NAMES) - 1 for view in views)

    def _create_database(self) -> None:
        """What the recipe does once."""
        variables = {"owner_password": self._password, "server_password": self._password}
        subprocess.run(
            [
                installation() / PROGRAMS / "psql",
                "--no-psqlrc",
                "--set=ON_ERROR_STOP=1",
                *(f"--set={name}={value}" for name, value in variables.items()),
                f"--file={RECIPE / 'database.sql'}",
                self.primary().url(SUPERUSER),
            ],
            check=True,
            capture_output=True,
            text=True,
        )


def _keeps_up(member: Mapping[str, Any]) -> bool:
    return member["state"] == "streaming" and member["role"] == "quorum_standby"
