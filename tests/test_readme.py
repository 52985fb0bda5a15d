"""The shop window stays true."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

from modelregistry.v1.model_pb2 import ModelVersion
from server.cli.server_commands import serve
from tests.documents import table

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_table_of_options_is_that_of_serve() -> None:
    told = {}
    for option, variable, default, _ in table(README, "Configuration"):
        told[option.strip("`").split()[0]] = (variable.strip("`"), default.strip("`"))
    real = {}
    for parameter in inspect.signature(serve, eval_str=True).parameters.values():
        (option,) = parameter.annotation.__metadata__
        default = "" if parameter.default in (None, False) else str(parameter.default)
        real[option.default if isinstance(option.default, str) else option.param_decls[0]] = (option.envvar, default)
    assert told == real


def test_the_shown_version_has_the_keys_of_the_message() -> None:
    shown = re.search(r"promoted it as version 1 of branch master:\n(\{.*?\n\})\n", README, re.DOTALL)
    assert shown
    keys = json.loads(shown[1].replace("{ … }", "{}"))
    # What is yanked alone says so.
    assert set(keys) == {field.json_name for field in ModelVersion.DESCRIPTOR.fields} - {"yanked"}


def test_every_linked_file_is_there() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (Path(__file__).parent.parent / target).exists(), target
