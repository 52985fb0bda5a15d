"""One node of the cluster that deploy/ha describes: etcd, Patroni and PostgreSQL, on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from string import Template
from typing import Any

import psycopg

from tests.ha.guard import all_in, kill_all_in
from tests.ha.links import LOOPBACK, Link
from tests.postgres import PROGRAMS, installation, unprivileged_account, unused_port
from tests.processes import COMMAND

RECIPE = Path(__file__).parents[2] / "deploy/ha"
SUPERUSER = "postgres"
DEADLINE_SECONDS = 90
POLL_SECONDS = 0.1


class Node:
    """One node. Its own programs are reached directly; others reach them over links that can be cut."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder / name
        self.etcd_port, self.etcd_peer_port = unused_port(), unused_port()
        self.rest_port, self.postgres_port = unused_port(), unused_port()
        self._inward = {"rest": Link(self.rest_port), "postgres": Link(self.postgres_port)}
        self._outward: list[Link] = []
        self._environment: dict[str, str] = {}
        self._processes: list[subprocess.Popen[bytes]] = []

    def join(self, nodes: list[Node], passwords: dict[str, str]) -> None:
        """Fill in the recipe's template for this node, one of these."""
        self._outward = [Link(node.etcd_port) for node in nodes]
        values = {
            "NODE": self.name,
            "DATA": str(self.folder),
            "ETCD_PEERS": ",".join(f"{node.name}=http://{LOOPBACK}:{node.etcd_peer_port}" for node in nodes),
            "ETCD_HOSTS": ",".join(f"'{link.address}'" for link in self._outward),
            "ETCD_LISTEN": f"{LOOPBACK}:{self.etcd_port}",
            "ETCD_ADDRESS": f"{LOOPBACK}:{self.etcd_port}",
            "ETCD_PEER_LISTEN": f"{LOOPBACK}:{self.etcd_peer_port}",
            "ETCD_PEER_ADDRESS": f"{LOOPBACK}:{self.etcd_peer_port}",
            "REST_LISTEN": f"{LOOPBACK}:{self.rest_port}",
            "REST_ADDRESS": self._inward["rest"].address,
            "POSTGRES_LISTEN": f"{LOOPBACK}:{self.postgres_port}",
            "POSTGRES_ADDRESS": self._inward["postgres"].address,
            "POSTGRES_PROGRAMS": str(installation() / PROGRAMS),
            **passwords,
        }
        lines = Template((RECIPE / "node.env").read_text()).substitute(values).splitlines()
        self._environment = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
        self.folder.mkdir()
        shutil.copy(RECIPE / "patroni.yml", self.folder)
        if os.geteuid() == 0:
            account = unprivileged_account()
            os.chown(self.folder, account.pw_uid, account.pw_gid)

    def start(self) -> None:
        """Start all programs of the node, as its machine does when it has booted."""
        self.start_etcd()
        self.start_patroni()

    def start_etcd(self) -> None:
        """Start etcd, which answers when most of the nodes have it."""
        self._start("etcd", [COMMAND.with_name("etcd")])

    def start_patroni(self) -> None:
        """Start Patroni, once etcd answers."""
        await_that(self._etcd_answers, f"etcd does not answer on {self.name}")
        self._start("patroni", [*_without_root(), sys.executable, "-m", "patroni", "patroni.yml"])

    def _start(self, program: str, command: list[str | Path]) -> None:
        with (self.folder / f"{program}.log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    command,
                    cwd=self.folder,
                    env={"PATH": os.environ["PATH"], **self._environment},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    def _etcd_answers(self) -> bool:
        version = _json(f"http://{LOOPBACK}:{self.etcd_port}/version")
        # Patroni gives up on etcd whose members have not agreed on this yet.
        return bool(version) and version["etcdcluster"] not in {"", "not_decided"}

    def kill(self) -> None:
        """SIGKILL PostgreSQL, Patroni and etcd at once, as when the machine loses its power."""
        kill_all_in(self.folder)
        for process in self._processes:
            process.wait()
        self._processes.clear()

    def isolate(self) -> None:
        """Cut the node off the others: its Patroni reaches no etcd, and no standby reaches its PostgreSQL."""
        for link in (*self._inward.values(), *self._outward):
            link.cut()

    def rejoin(self) -> None:
        """Mend what `isolate` cut."""
        for link in (*self._inward.values(), *self._outward):
            link.mend()

    def freeze(self) -> None:
        """Stop every program of the node in the midst of what it does, as when the machine hangs."""
        for process in all_in(self.folder):
            process.suspend()

    def thaw(self) -> None:
        """Let them go on."""
        for process in all_in(self.folder):
            process.resume()

    def close(self) -> None:
        for link in (*self._inward.values(), *self._outward):
            link.close()

    def says(self, path: str) -> Any:
        """What Patroni's REST interface answers with 200; None for anything else."""
        return _json(f"http://{LOOPBACK}:{self.rest_port}/{path}")

    def hand_over_to(self, successor: Node) -> None:
        """Tell Patroni here, on the primary, to let another node take its place; return when that is done."""
        request = urllib.request.Request(
            f"http://{LOOPBACK}:{self.rest_port}/switchover",
            json.dumps({"leader": self.name, "candidate": successor.name}).encode(),
        )
        urllib.request.urlopen(request, timeout=DEADLINE_SECONDS).close()

    def etcd(self, path: str, body: dict[str, Any]) -> Any:
        """What etcd answers, over its JSON interface; None if it does not."""
        return _json(f"http://{LOOPBACK}:{self.etcd_port}/v3/{path}", json.dumps(body).encode())

    @property
    def leads_etcd(self) -> bool:
        status = self.etcd("maintenance/status", {})
        return bool(status) and status["leader"] == status["header"]["member_id"]

    def takes_writes(self) -> bool:
        """Whether PostgreSQL runs here and believes to be the primary."""
        try:
            with psycopg.connect(self.url(SUPERUSER), connect_timeout=5) as connection:
                row = connection.execute("SELECT NOT pg_is_in_recovery()").fetchone()
        except psycopg.OperationalError:
            return False
        assert row is not None
        return bool(row[0])

    def streams_to(self, standby: Node) -> bool:
        """Whether PostgreSQL, the primary, has a connection to this standby."""
        with psycopg.connect(self.url(SUPERUSER)) as connection:
            names = connection.execute("SELECT application_name FROM pg_stat_replication").fetchall()
        return (standby.name,) in names

    def url(self, user: str, database: str = "postgres") -> str:
        """Where a client finds this node alone."""
        password = self._environment["PATRONI_SUPERUSER_PASSWORD"]
        return f"postgresql://{user}:{password}@{LOOPBACK}:{self.postgres_port}/{database}"

    def said(self) -> str:
        """The ends of its logs, for people."""
        return "\n".join(f"{log}:\n{log.read_text(errors='replace')[-3000:]}" for log in self.folder.glob("*.log"))


def await_that(condition: Callable[[], bool], complaint: str, seconds: float = DEADLINE_SECONDS) -> None:
    """Look again and again whether a condition holds, for nothing here tells when it does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, complaint
        time.sleep(POLL_SECONDS)


def _without_root() -> list[str | Path]:
    """What runs a command as an account that PostgreSQL accepts.

    It keeps the right to read the virtual environment, which may be in a folder that only root can enter.
    """
    if os.geteuid() != 0:
        return []
    account = unprivileged_account()
    ids = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
    return ["setpriv", *ids, "--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--"]


def _json(url: str, body: bytes | None = None) -> Any:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=5) as response:
            return json.load(response)
    except OSError:
        return None
