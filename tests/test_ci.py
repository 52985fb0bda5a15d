"""What is tried is what is shipped."""

from __future__ import annotations

import re

from tests.pythons.versions import ROOT, SUPPORTED, image_version


def test_ci_runs_the_suite_on_the_python_of_the_image() -> None:
    [version] = re.findall(r"^IMAGE_PYTHON=(.*)$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    assert version == image_version()


def test_the_python_of_the_image_is_supported() -> None:
    assert image_version() in SUPPORTED
