"""Tells whether a measurement counts: what was answered was good, and what was acknowledged is stored."""

from __future__ import annotations

import grpc

from bench.h2load import Load, Measured
from bench.sampler import Sample
from bench.scenarios import Scenario

_PREFIX_BYTES = 5  # of gRPC, before each message
_REFUSED = grpc.StatusCode.RESOURCE_EXHAUSTED.name
# Numbers and times in an answer take a few bytes more or fewer.
_ABOUT = 16


class Void(Exception):
    """A measurement that does not count, since what is stored or answered does not add up."""


def check(scenario: Scenario, measured: Measured, sample: Sample, load: Load, stored: int) -> None:
    """Raise Void unless all answers were good ones, and what was acknowledged, and no more, is stored."""
    good = sample.of(grpc.StatusCode.OK)
    others = set(sample.codes) - {grpc.StatusCode.OK.name, *([_REFUSED] if scenario.overloads else [])}
    if others or not good:
        raise Void(f"{scenario.name}: a caller on the side was answered {sample.codes}")
    # A call that is under way at the end of the load may be carried out, and is not counted as answered.
    under_way = load.callers * load.streams
    about = _ABOUT if scenario.writes else 0
    size = len(good[0].message) + _PREFIX_BYTES
    # A refusal has no message, so the bytes tell how many answers were good ones. Of HTTP, the statuses do.
    fewest, highest = -(-measured.answered_bytes // (size + about)), measured.answered_bytes // (size - about)
    if not scenario.overloads:
        if not load.http and (highest < measured.calls or fewest > measured.calls + under_way):
            raise Void(
                f"{scenario.name}: {measured.calls} answers of {size} bytes were {measured.answered_bytes} bytes"
            )
        fewest = highest = measured.calls
    least, most = fewest + len(good), highest + len(good) + under_way
    if scenario.writes and not least <= stored <= most:
        raise Void(f"{scenario.name}: {least} to {most} versions should have been stored, and {stored} were")
