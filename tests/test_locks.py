"""tools/locks pins everything that pyproject.toml wants, and what that wants in turn; nothing here needs a network."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import distribution

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.packaging.versions import ROOT, SUPPORTED
from tests.test_ci import PROJECT

LOCKS = ROOT / "tools/locks"
RENEW = "run make lock, and commit tools/locks"
DEPENDENCIES = PROJECT["project"]["dependencies"]
EXTRAS = [line for extra in PROJECT["project"]["optional-dependencies"].values() for line in extra]
GROUPS = PROJECT["dependency-groups"]
COMPILERS = [
    line for line in (ROOT / "clients/python/compilers.txt").read_text().splitlines() if not line.startswith("#")
]
# What is wanted, and the files that are installed for it.
WANTED = [
    (PROJECT["build-system"]["requires"], ["build"]),
    (DEPENDENCIES, ["runtime"]),
    (EXTRAS, ["runtime", "extras"]),
    *((wanted, ["runtime", "extras", group]) for group, wanted in GROUPS.items()),
    (COMPILERS, ["compilers"]),
]
# Those that `make test` installs, so that it can be asked what they want in turn.
INSTALLED = [(wanted, files) for wanted, files in WANTED if files[-1] in {"runtime", "extras", "check", "test"}]
MACHINES = [
    {
        "python_version": version,
        "python_full_version": f"{version}.9",
        "sys_platform": platform,
        "platform_system": {"linux": "Linux", "darwin": "Darwin", "win32": "Windows"}[platform],
    }
    for version in SUPPORTED
    for platform in ("linux", "darwin", "win32")
]
HERE: dict[str, str] = {}
LINE = re.compile(r"#.*|[a-z0-9-]+==\S+( ; [^/\\]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?")


def pins(files: Iterable[str], machine: dict[str, str]) -> dict[str, str]:
    """The version of each package that the files install on a machine."""
    found = {}
    for file in files:
        for line in re.findall(r"^[^#\s].*==.*(?= \\$)", (LOCKS / f"{file}.txt").read_text(), re.MULTILINE):
            pin = Requirement(line)
            if pin.marker is None or pin.marker.evaluate(machine):
                assert found.setdefault(pin.name, pin.specifier) == pin.specifier, f"{pin.name} has two: {RENEW}"
    return {name: next(iter(specifier)).version for name, specifier in found.items()}


def wanted_on(machine: dict[str, str], lines: Iterable[str], extra: str = "") -> list[Requirement]:
    requirements = map(Requirement, lines)
    return [one for one in requirements if one.marker is None or one.marker.evaluate({**machine, "extra": extra})]


def check(requirement: Requirement, pinned: dict[str, str]) -> None:
    name = canonicalize_name(requirement.name)
    assert name in pinned, f"{requirement} is not pinned: {RENEW}"
    assert pinned[name] in requirement.specifier, f"{requirement} is pinned to {pinned[name]}: {RENEW}"


def test_there_is_a_file_for_each_group() -> None:
    assert {file.stem for file in LOCKS.iterdir()} == {file for _, files in WANTED for file in files}


@pytest.mark.parametrize(("wanted", "files"), WANTED, ids=[files[-1] for _, files in WANTED])
def test_what_is_wanted_is_pinned_on_every_machine(wanted: list[str], files: list[str]) -> None:
    for machine in MACHINES:
        pinned = pins(files, machine)
        for requirement in wanted_on(machine, wanted):
            check(requirement, pinned)


@pytest.mark.parametrize(("wanted", "files"), INSTALLED, ids=[files[-1] for _, files in INSTALLED])
def test_what_the_pinned_packages_want_is_pinned_too(wanted: list[str], files: list[str]) -> None:
    pinned = pins(files, HERE)
    waiting = [*wanted_on(HERE, wanted)]
    seen = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        check(requirement, pinned)
        for extra in {"", *requirement.extras}:
            if (name, extra) not in seen:
                seen.add((name, extra))
                installed = distribution(name)
                assert installed.version == pinned[name], f"{name} {installed.version} is installed: run make test"
                waiting += wanted_on(HERE, installed.requires or [], extra)


def test_the_files_name_versions_and_hashes_and_no_place_to_get_them_from() -> None:
    for file in LOCKS.iterdir():
        for line in file.read_text().splitlines():
            assert LINE.fullmatch(line), f"{file.name}: {line}"
