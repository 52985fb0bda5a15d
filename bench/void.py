"""Tells whether a measurement counts: what was answered was good, and what was acknowledged is stored."""

from __future__ import annotations

import grpc

from bench.h2load import Load, Measured
from bench.sampler import Sample
from bench.scenarios import Scenario

_PREFIX_BYTES = 5  # of gRPC, before each message
# Numbers and times in an answer take a few bytes more or fewer.
_ABOUT = 16


class Void(Exception):
    """A measurement that does not count, since what is stored or answered does not add up."""


def check(scenario: Scenario, measured: Measured, sample: Sample, load: Load, stored: int) -> None:
    """Raise Void unless all answers were good ones, and what was acknowledged, and no more, is stored."""
    good = sample.of(grpc.StatusCode.OK)
    # A call that is under way at the end of the load may be carried out, and is not counted as answered.
    under_way = load.callers * load.streams
    least, most = measured.calls + len(good), measured.calls + len(good) + under_way
    if scenario.overloads:
        # What was refused went to the load generator, too, which cannot tell; so the bounds are wide.
        least, most = len(good), most + len(sample.answers)
    elif len(good) != len(sample.answers) or not good:
        raise Void(f"{scenario.name}: a caller on the side was answered {sample.codes}")
    if scenario.writes and not least <= stored <= most:
        raise Void(f"{scenario.name}: {least} to {most} versions should have been stored, and {stored} were")
    if not scenario.overloads:
        about = _ABOUT if scenario.writes else 0
        size = len(good[0].message) + _PREFIX_BYTES
        if (
            not measured.calls * (size - about)
            <= measured.answered_bytes
            <= (measured.calls + under_way) * (size + about)
        ):
            raise Void(
                f"{scenario.name}: {measured.calls} answers of {size} bytes were {measured.answered_bytes} bytes"
            )
