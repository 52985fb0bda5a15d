"""The versions of grpcio with whose private parts `server.rpc.admission` was tried."""

from __future__ import annotations

import re
from importlib.metadata import requires, version

TRIED = ("1.85",)


def test_grpcio_is_one_that_admission_was_tried_with() -> None:
    installed = version("grpcio")
    assert installed.rpartition(".")[0] in TRIED, (
        f"server/rpc/admission/arrival.py uses private parts of grpcio, and was not tried with {installed}: compare its"
        " _server.py with that of the version before, run `make test-siege`, and name the version here and in"
        " pyproject.toml"
    )


def test_no_other_version_is_installed_with_the_server() -> None:
    [wanted] = [line for line in requires("modelregistry") or () if re.match(r"grpcio[<>=~]", line)]
    assert wanted.partition("<")[2].startswith("1.86"), wanted
