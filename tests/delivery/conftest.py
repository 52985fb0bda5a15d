"""Servers whose webhooks are delivered, and their receivers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from server.delivery.deliverer import Deliverer
from server.delivery.sender import WebhookSender
from server.rules.deliveries import Retries
from tests.delivery.receiver import Answer, Received, Receiver
from tests.rpc.conftest import *  # noqa: F403 - the servers and callers are those of the RPCs
from tests.rpc.harness import WEBHOOKS, Registry

# So that tests need not wait.
SOON = Retries(
    first=timedelta(milliseconds=50),
    longest=timedelta(milliseconds=200),
    longest_hold=timedelta(milliseconds=100),
    give_up_after=timedelta(days=3),
)

Deliver = Callable[..., Deliverer]
Receive = Callable[..., Receiver]


@pytest.fixture
def deliver(registry: Registry) -> Iterator[Deliver]:
    """Starts deliverers, which are stopped after the test."""
    started = []

    def new(
        retries: Retries = SOON,
        sender: Callable[[], WebhookSender] = lambda: WebhookSender(WEBHOOKS),
        **options: object,
    ) -> Deliverer:
        repository = options.pop("repository", registry.repository)
        unseal = options.pop("unseal", registry.secrets.unseal)
        deliverer = Deliverer(  # type: ignore[arg-type]
            repository,
            registry.credentials.acting_for,
            unseal,
            sender,
            retries,
            **options,
        )
        deliverer.start()
        started.append(deliverer)
        return deliverer

    yield new
    for deliverer in started:
        deliverer.close(10)


@pytest.fixture
def receive() -> Iterator[Receive]:
    """Starts receivers, which are stopped after the test."""
    started = []

    def new(answer: Callable[[Received], Answer] = lambda _: Answer(), **options: object) -> Receiver:
        receiver = Receiver(answer, **options).__enter__()  # type: ignore[arg-type]
        started.append(receiver)
        return receiver

    yield new
    for receiver in started:
        receiver.__exit__(None, None, None)
