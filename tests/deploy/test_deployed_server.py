"""The server with the environment that deploy/kubernetes gives it, asked by the probes that deploy/kubernetes makes.

No cluster is needed for it: what differs is who starts the process, and where its issuer, database and bucket are.
"""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.auth.forge import KeyPair, claims, jwks, key_pair
from tests.auth.test_key_sources import Site
from tests.conftest import NewDatabase
from tests.deploy.manifests import EXAMPLE, EXAMPLE_MIGRATION, container_of, environment_of, only, pod_of
from tests.deploy.test_kubernetes import PROBES
from tests.e2e.database_proxy import DatabaseProxy
from tests.object_store import BUCKET, object_store
from tests.processes import Server, run, until
from tests.rpc.harness import User

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
DEADLINE_SECONDS = 180


@dataclass(frozen=True)
class Deployed:
    """A running server of the example, with what it stands on."""

    server: Server
    issuer: KeyPair
    variables: dict[str, str]
    database: DatabaseProxy
    volumes: dict[str, Path]

    def user(self, channel: grpc.Channel, **changes: Any) -> User:
        """Somebody with a token of the issuer that the example names."""
        issued = {"iss": self.variables["MODELREGISTRY_ISSUER"], "aud": self.variables["MODELREGISTRY_AUDIENCE"]}
        token = self.issuer.sign(claims(**issued, scope="api:models-read api:models-write", **changes))
        return User(channel, (("authorization", f"Bearer {token}"),))

    def probe(self, channel: grpc.Channel, name: str) -> Any:
        """What a probe of the Deployment is told."""
        asked = container_of(only(EXAMPLE, "Deployment"))[name]["grpc"].get("service", "")
        request = health_pb2.HealthCheckRequest(service=asked)
        return health_pb2_grpc.HealthStub(channel).Check(request, timeout=DEADLINE_SECONDS).status


@pytest.fixture
def deployed(new_database: NewDatabase, tmp_path: Path) -> Iterator[Deployed]:
    url, issuer = new_database("postgresql"), key_pair()
    volumes = {"tmp": tmp_path / "t", "data": tmp_path / "data"}
    for folder in volumes.values():
        folder.mkdir()
    keys = tmp_path / "secrets.key"
    keys.write_bytes(base64.b64encode(os.urandom(32)))
    with Site() as site, object_store() as objects, DatabaseProxy(url) as proxy:
        site.document = jwks(issuer)
        threading.Thread(target=site.serve_forever, args=(0.01,), daemon=True).start()
        # What is somewhere else here, and nothing beside.
        here = {
            "MODELREGISTRY_DATABASE_URL": proxy.url,
            "MODELREGISTRY_JWKS_URL": site.url,
            "MODELREGISTRY_FILES_URL": f"s3://{BUCKET}/modelregistry",
            **objects.environment,
            "no_proxy": "127.0.0.1",
            "TMPDIR": str(volumes["tmp"]),
            "HOME": str(tmp_path / "nobody"),
            "MODELREGISTRY_DATA_DIR": str(volumes["data"]),
            "MODELREGISTRY_SECRETS_KEY_FILE": str(keys),
            # Its own port may be taken here.
            "MODELREGISTRY_METRICS_LISTEN": "127.0.0.1:0",
        }
        migration = only(EXAMPLE_MIGRATION, "Job")
        job = run(*container_of(migration)["args"], **environment_of(EXAMPLE_MIGRATION, migration) | here)
        assert job.returncode == 0, job.stderr
        variables = environment_of(EXAMPLE, only(EXAMPLE, "Deployment")) | here
        with Server(volumes["data"], **variables) as server:
            yield Deployed(server, issuer, variables, proxy, volumes)
        site.shutdown()


def test_the_server_of_the_example_serves_and_writes_nothing_that_it_would_miss(deployed: Deployed) -> None:
    with grpc.insecure_channel(deployed.server.address) as channel:
        assert [deployed.probe(channel, name) for name in PROBES] == [SERVING] * 3
        admin = deployed.user(channel, groups=["ml-platform"])
        source, target = admin.create_model("source"), admin.create_model("target")
        version = admin.create_version_with_files(source, b"weights" * 2**18)
        promoted = admin.promote(version, target)
        assert admin.download(promoted) == b"weights" * 2**18
        # Its secret is encrypted, under a key that is not made here.
        admin("CreateSubscription", resource_rid=target.rid, url="https://hooks.example.com/models")
        assert deployed.user(channel, sub="jane").failure("GetModel", model_rid=target.rid).name == "ModelNotFound"

    assert list(deployed.volumes["data"].iterdir()) == []
    written = [path for path in deployed.volumes["tmp"].rglob("*") if path.is_file()]  # a socket is none
    assert [path for path in written if not path.parent.name.startswith("modelregistry-metrics-")] == []
    assert sum(path.stat().st_size for path in written) < 64 * 2**20 / 4  # of the volume, for one worker
    assert not Path(deployed.variables["HOME"]).exists()


def test_prometheus_gets_the_numbers_of_the_example_without_credentials(deployed: Deployed) -> None:
    with grpc.insecure_channel(deployed.server.address) as channel:
        deployed.probe(channel, "readinessProbe")
    annotations = pod_of(only(EXAMPLE, "Deployment"))["metadata"]["annotations"]
    url = urlsplit(deployed.server.line("metrics on "))
    assert url.path == annotations["prometheus.io/path"]
    until(lambda: 'grpc_method="Check"' in urlopen(url.geturl(), timeout=DEADLINE_SECONDS).read().decode())


def test_a_lost_database_makes_a_replica_unready_and_never_dead(deployed: Deployed) -> None:
    with grpc.insecure_channel(deployed.server.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=DEADLINE_SECONDS)
        assert next(watch).status == SERVING
        deployed.database.close()
        assert next(watch).status == NOT_SERVING
        told = {name: deployed.probe(channel, name) for name in PROBES}
        assert told == {"startupProbe": SERVING, "readinessProbe": NOT_SERVING, "livenessProbe": SERVING}
        deployed.database.open()
        assert next(watch).status == SERVING
        assert deployed.probe(channel, "readinessProbe") == SERVING
        watch.cancel()
