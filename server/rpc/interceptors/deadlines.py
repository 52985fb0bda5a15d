"""What a call has the server do ends with the call: by its deadline, or since its client left."""

from __future__ import annotations

import grpc

from server.deadline import Call, CallOver, begin

# A deadline travels as the time that is left, rounded up; so here it is later by that, and by the way.
DEADLINE_SLACK_SECONDS = 0.1
DEADLINE_SLACK = 0.02


def follow(context: grpc.ServicerContext) -> None:
    """Let this thread work for a call, as long as somebody waits for the answer. Raises CallOver if nobody does."""
    seconds = context.time_remaining()
    # Nothing may have told gRPC yet that the time is up, while the call waited for this thread.
    call = Call(seconds) if seconds is not None else Call()
    # When the call ends, however it does, and from gRPC's own thread. Each call runs in a context of its own, so what
    # is set here ends with it, too.
    if call.is_over or not context.add_callback(call.end):
        raise CallOver
    begin(call)


def how_it_ended(context: grpc.ServicerContext, seconds: float) -> str:
    """Return the name of the code that the client was told of a call that was given up after so many seconds."""
    left = context.time_remaining()
    # A client whose time is up cancels the call, and that often is here before the time is up for us.
    is_up = left is not None and left <= DEADLINE_SLACK_SECONDS + DEADLINE_SLACK * seconds
    return "DEADLINE_EXCEEDED" if is_up else "CANCELLED"
