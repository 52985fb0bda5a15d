"""Finds programs, or fetches them from Debian into build/tools: without root, and without a trace elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

BUILD = Path(__file__).parent.parent / "build"
TOOLS = BUILD / "tools"
H2LOAD, PGBOUNCER = "h2load", "pgbouncer"
PACKAGES = {H2LOAD: "nghttp2-client", PGBOUNCER: "pgbouncer"}
ADVICE = (
    "{program} is needed, and could not be fetched ({reason}). Install it, and have it on the PATH: it is in the"
    " package {package} on Debian and Ubuntu; on Fedora and with Homebrew, h2load is in nghttp2."
)


@dataclass(frozen=True)
class Tool:
    """A program, and where its libraries are, if the system does not have them."""

    program: Path
    libraries: tuple[Path, ...] = ()

    @property
    def environment(self) -> dict[str, str]:
        """What the program must find in its environment."""
        if not self.libraries:
            return dict(os.environ)
        return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(map(str, self.libraries))}

    def version(self) -> str:
        """What the program says of itself."""
        said = subprocess.check_output([self.program, "--version"], env=self.environment, text=True)
        return said.strip()


def find_h2load() -> Tool:
    """Return h2load, as `find` does."""
    return find(H2LOAD)


def find(program: str) -> Tool:
    """Return a program: the system's, or one in build/tools, which is fetched if it is not there yet.

    Ends this program with advice where neither is to be had.
    """
    if installed := shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin"):
        return Tool(Path(installed))
    package, unpacked = PACKAGES[program], TOOLS / program
    if not unpacked.exists():
        try:
            _fetch(package, unpacked)
        except (OSError, subprocess.CalledProcessError) as error:
            said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
            reason = said[-1] if said else error
            raise SystemExit(ADVICE.format(program=program, package=package, reason=reason)) from None
    [found] = unpacked.glob(f"usr/*bin/{program}")
    return Tool(found, tuple(sorted((unpacked / "usr/lib").glob("*-linux-gnu"))))


def _fetch(package: str, into: Path) -> None:
    """Unpack a package and those that it needs and the system lacks."""
    packages = TOOLS / "packages" / package
    for folder in (packages, TOOLS / "apt/state/lists/partial", TOOLS / "apt/cache/archives/partial"):
        folder.mkdir(parents=True, exist_ok=True)
    _apt("update", cwd=packages)
    # A simulated installation needs no rights, and names exactly what is missing here.
    plan = _apt("--simulate", "--no-install-recommends", "install", package, cwd=packages)
    missing = {line.split()[1] for line in plan.splitlines() if line.startswith("Inst ")}
    _apt("download", *sorted(missing | {package}), cwd=packages)
    # Complete or not there: what was interrupted is begun anew.
    unfinished = into.with_name("unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    for package in packages.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", package, unfinished], check=True, capture_output=True, text=True)
    unfinished.rename(into)


def _apt(*arguments: str, cwd: Path) -> str:
    """Call apt-get with lists and cache of its own, so that it asks for no lock and no rights."""
    options = {
        "Dir::State": TOOLS / "apt/state",
        "Dir::State::status": "/var/lib/dpkg/status",
        "Dir::Cache": TOOLS / "apt/cache",
        "Debug::NoLocking": "1",
        # As root, apt would otherwise drop to an account that may not be able to enter this folder.
        "APT::Sandbox::User": "root",
    }
    settings = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    done = subprocess.run(
        ["apt-get", "-qq", *settings, *arguments], cwd=cwd, check=True, capture_output=True, text=True
    )
    return done.stdout
