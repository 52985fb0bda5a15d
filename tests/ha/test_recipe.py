"""What deploy/ha/README.md tells people to do is what its files need."""

from __future__ import annotations

import re
from string import Template

import yaml

from tests.ha.nodes import RECIPE

README = (RECIPE / "README.md").read_text()
SETTINGS = yaml.safe_load((RECIPE / "patroni.yml").read_text())["bootstrap"]["dcs"]


def test_the_example_gives_a_value_to_each_variable_of_the_template() -> None:
    (example,) = re.findall(r"```sh\n(umask.*?)```", README, re.DOTALL)
    given = set(re.findall(r"\b([A-Z_]+)=", example))

    assert set(Template((RECIPE / "node.env").read_text()).get_identifiers()) == given - {"ADDRESS"}


def test_a_primary_without_etcd_steps_down_before_its_lease_ends() -> None:
    assert SETTINGS["loop_wait"] + 2 * SETTINGS["retry_timeout"] <= SETTINGS["ttl"]


def test_each_setting_that_the_text_explains_is_there() -> None:
    known = (RECIPE / "patroni.yml").read_text()
    explained = README[README.index("## Why these settings") : README.index("## What to expect")]
    named = {name.split(":")[0] for name in re.findall(r"`([a-z_]+(?:: \w+)?)`", explained)}

    assert named - {"postgres", "softdog", "automatic"} <= set(re.findall(r"\w+", known))
    assert {"synchronous_mode", "synchronous_mode_strict", "ttl", "watchdog", "use_pg_rewind"} <= named
