"""deploy/kubernetes holds what Kubernetes accepts, and what the server and its Dockerfile mean."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from server.core.config import DEFAULT_HTTP_LISTEN, DEFAULT_LISTEN
from server.observability.scrapes import PATH as METRICS_PATH
from server.process.serve import DRAIN_SECONDS
from server.rpc.health import LIVENESS
from server.rpc.server import SERVICES
from tests.cli.test_options import commands, options_of
from tests.deploy.manifests import (
    BASE,
    EXAMPLE,
    EXAMPLE_MIGRATION,
    KUBERNETES,
    KUSTOMIZATIONS,
    MIGRATION,
    Manifest,
    container_of,
    environment_of,
    objects,
    only,
    pod_of,
    selects,
)
from tests.packaging.test_image import arguments_of
from tests.packaging.test_image import only as only_instruction

# The oldest Kubernetes where all that is used here is on by default, and the newest that the schemas are of.
VERSIONS = ["1.30", kubernetes_validate.latest_version()]
# A worker, with the streams that it may write at a time, and beside all workers the supervisor and files in memory.
WORKER_MIB, BESIDE_WORKERS_MIB = 768, 256
PROBES = ["startupProbe", "readinessProbe", "livenessProbe"]
WORKLOADS = [(BASE, "Deployment"), (EXAMPLE, "Deployment"), (MIGRATION, "Job"), (EXAMPLE_MIGRATION, "Job")]
# What the name of a variable or the shape of a value says of a secret.
SECRET_NAME = re.compile("PASSWORD|SECRET|TOKEN|KEY|DATABASE_URL")
SECRET_VALUE = re.compile(r"://[^/\s]*:[^/\s]*@|-----BEGIN|\beyJ[\w-]+\.")

each_workload = pytest.mark.parametrize(("folder", "kind"), WORKLOADS)


def kustomization_name(folder: Path) -> str:
    return str(folder.relative_to(KUBERNETES))


def listens_of_the_image() -> dict[str, str]:
    """Where the image has its server listen, by the names that the Deployment gives the ports."""
    variables = dict(pair.split("=", 1) for pair in only_instruction("ENV").split())
    names = {"grpc": "LISTEN", "http": "HTTP_LISTEN", "metrics": "METRICS_LISTEN"}
    return {name: variables[f"MODELREGISTRY_{variable}"] for name, variable in names.items()}


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("folder", KUSTOMIZATIONS, ids=kustomization_name)
def test_every_object_fits_the_schema_of_its_kind(folder: Path, version: str) -> None:
    found = objects(folder)
    for each in found:
        kubernetes_validate.validate(each, version, strict=True)
    assert found


def test_a_misspelt_field_would_be_noticed() -> None:
    misspelt = copy.deepcopy(only(BASE, "Deployment"))
    container_of(misspelt)["readynessProbe"] = container_of(misspelt).pop("readinessProbe")
    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        kubernetes_validate.validate(misspelt, VERSIONS[-1], strict=True)


def test_every_folder_with_a_kustomization_is_among_those_that_are_rendered() -> None:
    folders = {file.parent for file in KUBERNETES.rglob("kustomization.yaml")}
    assert folders == {*KUSTOMIZATIONS, EXAMPLE / "release"}


@each_workload
def test_a_workload_runs_a_command_with_options_that_it_has(folder: Path, kind: str) -> None:
    workload = only(folder, kind)
    [command] = container_of(workload)["args"]
    known = {parameter.envvar for parameter in options_of(commands()[command]).values()}
    ours = {name for name in environment_of(folder, workload) if name.startswith("MODELREGISTRY_")}
    assert ours <= known
    assert "MODELREGISTRY_DATABASE_URL" in ours
    # Kubernetes would add variables like MODELREGISTRY_PORT for the services around.
    assert pod_of(workload)["spec"]["enableServiceLinks"] is False


def test_the_example_says_all_that_servers_away_from_a_trial_need() -> None:
    names = environment_of(EXAMPLE, only(EXAMPLE, "Deployment")).keys()
    assert names >= {f"MODELREGISTRY_{name}" for name in ("ISSUER", "AUDIENCE", "JWKS_URL", "FILES_URL")}
    assert "MODELREGISTRY_LOCAL_KEYS" not in names


@each_workload
def test_secrets_are_referred_to_and_never_spelled(folder: Path, kind: str) -> None:
    assert not [each for each in objects(folder) if each["kind"] == "Secret"]
    for name, value in environment_of(folder, only(folder, kind)).items():
        if SECRET_NAME.search(name) and not name.endswith("_FILE"):
            assert set(value) == {"secretKeyRef"}, name
        else:
            assert isinstance(value, str), name
            assert not SECRET_VALUE.search(value), name


def test_the_servers_do_not_own_the_tables() -> None:
    def secret_of(folder: Path, kind: str) -> str:
        variables: dict[str, Any] = environment_of(folder, only(folder, kind))
        return variables["MODELREGISTRY_DATABASE_URL"]["secretKeyRef"]["name"]

    assert secret_of(EXAMPLE, "Deployment") != secret_of(EXAMPLE_MIGRATION, "Job")


@each_workload
def test_a_workload_can_do_no_more_than_it_needs(folder: Path, kind: str) -> None:
    workload = only(folder, kind)
    pod, container = pod_of(workload)["spec"], container_of(workload)
    user, group = (int(number) for number in only_instruction("USER").split(":"))
    expected = {"runAsNonRoot": True, "runAsUser": user, "runAsGroup": group}
    assert pod["securityContext"].items() >= {**expected, "seccompProfile": {"type": "RuntimeDefault"}}.items()
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]


def test_ports_are_those_of_the_image_wherever_they_are_named() -> None:
    container = container_of(only(BASE, "Deployment"))
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert list(ports) == ["grpc", "http", "metrics"]
    assert [str(number) for number in ports.values()] == only_instruction("EXPOSE").split()
    assert {name: port_of(address) for name, address in listens_of_the_image().items()} == ports
    for default, name in ((DEFAULT_LISTEN, "grpc"), (DEFAULT_HTTP_LISTEN, "http")):
        assert port_of(default) == ports[name]
    assert all(container[probe]["grpc"]["port"] == ports["grpc"] for probe in PROBES)
    services = [each for each in objects(BASE) if each["kind"] == "Service"]
    for service in services:
        assert selects(service["spec"]["selector"], pod_of(only(BASE, "Deployment")))
        for port in service["spec"]["ports"]:
            assert (port["name"], port["port"]) == (port["targetPort"], ports[port["targetPort"]])
    # One address for everybody, and one that is the addresses of all replicas.
    assert [service["spec"].get("clusterIP") for service in services] == [None, "None"]


def test_prometheus_is_told_where_the_metrics_are() -> None:
    for folder in (BASE, EXAMPLE):
        workload = only(folder, "Deployment")
        ports = {port["name"]: port["containerPort"] for port in container_of(workload)["ports"]}
        listen = environment_of(folder, workload)["MODELREGISTRY_METRICS_LISTEN"]
        assert listen == f"0.0.0.0:{ports['metrics']}" == listens_of_the_image()["metrics"]
        assert pod_of(workload)["metadata"]["annotations"] == {
            "prometheus.io/scrape": "true",
            "prometheus.io/port": str(ports["metrics"]),
            "prometheus.io/path": METRICS_PATH,
        }
    assert (
        f"--metrics-listen {listens_of_the_image()['metrics']}`"
        in (KUBERNETES.parents[1] / "docs/operations.md").read_text()
    )


def test_there_is_a_worker_for_each_core_that_a_replica_requests() -> None:
    for folder in (BASE, EXAMPLE):
        workload = only(folder, "Deployment")
        resources = container_of(workload)["resources"]
        assert environment_of(folder, workload)["MODELREGISTRY_WORKERS"] == resources["requests"]["cpu"]
        assert "cpu" not in resources["limits"]


def test_there_is_memory_for_all_workers_and_what_is_beside_them() -> None:
    for folder in (BASE, EXAMPLE):
        workload = only(folder, "Deployment")
        workers = int(environment_of(folder, workload)["MODELREGISTRY_WORKERS"])
        memory = container_of(workload)["resources"]["limits"]["memory"]
        assert memory == f"{workers * WORKER_MIB + BESIDE_WORKERS_MIB}Mi"


def test_callers_with_a_label_reach_the_servers_and_prometheus_alone_the_metrics() -> None:
    for folder in (BASE, EXAMPLE):
        workload, policy = only(folder, "Deployment"), only(folder, "NetworkPolicy")["spec"]
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        reached = [({port["port"] for port in rule["ports"]}, rule["from"]) for rule in policy["ingress"]]
        named = {port["name"] for port in container_of(workload)["ports"]}
        assert set().union(*(ports for ports, _ in reached)) == named
        assert all(peers for _, peers in reached)
        of_callers = [peers for ports, peers in reached if ports == {"grpc", "http"}]
        [of_prometheus] = [peers for ports, peers in reached if ports == {"metrics"}]
        # The name of the servers' own pods, which kustomize could add, would keep all others out.
        pods = {"matchLabels": {"modelregistry.io/client": "true"}}
        assert of_callers[0] == [{"namespaceSelector": {}, "podSelector": pods}]
        assert [peer["podSelector"]["matchLabels"] for peer in of_prometheus] == [
            {"app.kubernetes.io/name": "prometheus"}
        ]
        assert len(reached) == 1 + len(of_callers)


@each_workload
def test_a_workload_reaches_dns_and_what_it_needs_and_in_the_example_at_their_addresses_alone(
    folder: Path, kind: str
) -> None:
    workload, policy = only(folder, kind), only(folder, "NetworkPolicy")["spec"]
    assert selects(policy["podSelector"]["matchLabels"], pod_of(workload))
    assert "Egress" in policy["policyTypes"]
    dns, *others = policy["egress"]
    assert [peer["podSelector"]["matchLabels"] for peer in dns["to"]] == [{"k8s-app": "kube-dns"}]
    assert {(port["port"], port["protocol"]) for port in dns["ports"]} == {(53, "UDP"), (53, "TCP")}
    # What the variables name: a database, and for servers an issuer and an object store.
    needed = {5432, 443} if kind == "Deployment" else {5432}
    assert {port["port"] for rule in others for port in rule["ports"]} == needed
    addresses = [peer["ipBlock"]["cidr"] for rule in others for peer in rule.get("to", [])]
    assert bool(addresses) == folder.is_relative_to(EXAMPLE)
    assert all("to" in rule for rule in others) == folder.is_relative_to(EXAMPLE)


def test_nothing_reaches_a_migration() -> None:
    for folder in (MIGRATION, EXAMPLE_MIGRATION):
        policy = only(folder, "NetworkPolicy")["spec"]
        assert "Ingress" in policy["policyTypes"]
        assert "ingress" not in policy
        assert not selects(policy["podSelector"]["matchLabels"], pod_of(only(BASE, "Deployment")))


def test_only_readiness_depends_on_the_database() -> None:
    container = container_of(only(BASE, "Deployment"))
    asked = {probe: container[probe]["grpc"].get("service", "") for probe in PROBES}
    assert asked == {"startupProbe": LIVENESS, "readinessProbe": "", "livenessProbe": LIVENESS}
    assert LIVENESS not in SERVICES


def test_a_replica_has_the_time_to_finish_what_it_runs() -> None:
    pod = pod_of(only(BASE, "Deployment"))["spec"]
    sleep = container_of(only(BASE, "Deployment"))["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert sleep > 0
    assert pod["terminationGracePeriodSeconds"] >= sleep + DRAIN_SECONDS + 5


def test_what_disturbs_and_what_spreads_the_servers_means_their_pods_alone() -> None:
    server, migration = pod_of(only(BASE, "Deployment")), pod_of(only(MIGRATION, "Job"))
    spec = server["spec"]
    budget = only(BASE, "PodDisruptionBudget")["spec"]
    selectors = [
        budget["selector"]["matchLabels"],
        only(BASE, "Deployment")["spec"]["selector"]["matchLabels"],
        only(BASE, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(each["labelSelector"]["matchLabels"] for each in spec["topologySpreadConstraints"]),
        *(each["spec"]["selector"] for each in objects(BASE) if each["kind"] == "Service"),
    ]
    assert len(selectors) == 7
    for selector in selectors:
        assert selects(selector, server)
        assert not selects(selector, migration)
    replicas = only(BASE, "Deployment")["spec"]["replicas"]
    assert 0 < budget["maxUnavailable"] < replicas
    assert only(EXAMPLE, "HorizontalPodAutoscaler")["spec"]["minReplicas"] >= replicas
    assert "replicas" not in only(EXAMPLE, "Deployment")["spec"]


def test_what_is_written_lies_in_a_volume() -> None:
    workload = only(BASE, "Deployment")
    mounts = {mount["name"]: mount["mountPath"] for mount in container_of(workload)["volumeMounts"]}
    volumes: list[Manifest] = pod_of(workload)["spec"]["volumes"]
    assert {volume["name"] for volume in volumes} == mounts.keys()
    written = {volume["name"] for volume in volumes if volume.keys() == {"name", "emptyDir"}}
    assert {mounts[name] for name in written} == {"/tmp", *arguments_of("VOLUME")}
    others = {
        mount["name"]: mount["readOnly"] for mount in container_of(workload)["volumeMounts"] if "readOnly" in mount
    }
    assert others == dict.fromkeys(mounts.keys() - written, True)


def test_the_keys_for_webhooks_are_those_of_a_secret_that_the_group_of_the_pod_reads() -> None:
    workload = only(BASE, "Deployment")
    mounts = {mount["mountPath"]: mount["name"] for mount in container_of(workload)["volumeMounts"]}
    file = Path(environment_of(BASE, workload)["MODELREGISTRY_SECRETS_KEY_FILE"])
    [volume] = [each for each in pod_of(workload)["spec"]["volumes"] if each["name"] == mounts[str(file.parent)]]
    assert volume["secret"] == {"secretName": "modelregistry-webhooks", "defaultMode": 0o440}
    assert pod_of(workload)["spec"]["securityContext"]["fsGroup"]
    made = f"create secret generic modelregistry-webhooks --from-file={file.name}="
    assert made in (KUBERNETES / "README.md").read_text()


def test_the_servers_and_their_migration_are_of_one_release() -> None:
    images = {container_of(only(folder, kind))["image"] for folder, kind in WORKLOADS if folder.is_relative_to(EXAMPLE)}
    [image] = images
    version = re.search(r'^version = "(.*)"$', (KUBERNETES.parents[1] / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    assert image.endswith(f"/modelregistry:{version[1]}")
