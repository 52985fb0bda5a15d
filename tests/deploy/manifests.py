"""What kustomize makes of deploy/kubernetes, as the objects that a cluster would get."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import yaml

KUBERNETES = Path(__file__).parents[2] / "deploy/kubernetes"
KUBECTL = Path(sys.executable).with_name("kubectl")

BASE, MIGRATION = KUBERNETES / "base", KUBERNETES / "migration"
EXAMPLE, EXAMPLE_MIGRATION = KUBERNETES / "overlays/example", KUBERNETES / "overlays/example/migration"
KUSTOMIZATIONS = [BASE, MIGRATION, EXAMPLE, EXAMPLE_MIGRATION]

Manifest: TypeAlias = dict[str, Any]


@cache
def rendered(folder: Path) -> str:
    """What `kubectl kustomize` prints; it asks no cluster."""
    result = subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def objects(folder: Path) -> list[Manifest]:
    """The objects of a kustomization."""
    return list(yaml.safe_load_all(rendered(folder)))


def only(folder: Path, kind: str) -> Manifest:
    """The one object of that kind."""
    [found] = [each for each in objects(folder) if each["kind"] == kind]
    return found


def pod_of(workload: Manifest) -> Manifest:
    """The pods that a Deployment or a Job makes, as if each were an object."""
    return workload["spec"]["template"]


def container_of(workload: Manifest) -> Manifest:
    """The only container of a Deployment or a Job."""
    [container] = pod_of(workload)["spec"]["containers"]
    return container


def environment_of(folder: Path, workload: Manifest) -> dict[str, Any]:
    """The variables of its container: text, or the reference to a secret that has it."""
    container = container_of(workload)
    configured = {each["metadata"]["name"]: each["data"] for each in objects(folder) if each["kind"] == "ConfigMap"}
    found: dict[str, Any] = {}
    for source in container.get("envFrom", []):
        found |= configured[source["configMapRef"]["name"]]
    return found | {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}


def selects(selector: dict[str, str], labelled: Manifest) -> bool:
    """Whether an object has all these labels, of which there is at least one."""
    return bool(selector) and selector.items() <= labelled["metadata"]["labels"].items()
