"""Puts the services, the chain around them, health and reflection into one gRPC server."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from modelregistry.v1 import (
    access_service_pb2_grpc,
    event_service_pb2_grpc,
    model_service_pb2_grpc,
    promotion_request_service_pb2_grpc,
    promotion_service_pb2_grpc,
    recall_service_pb2_grpc,
    subscription_service_pb2_grpc,
)
from server.auth.secrets_key import SecretsKey
from server.core.config import NO_QUOTA, FileQuota, Limits
from server.core.descriptors import service_modules
from server.core.webhooks import WebhookRules
from server.rpc.chain import Chain, current_caller
from server.rpc.event_watch import EventWatch, WatchLimits
from server.rpc.health import Health
from server.rpc.in_process import InProcessServer
from server.rpc.reflection import add_reflection
from server.rpc.services.access import AccessService
from server.rpc.services.events import EventService
from server.rpc.services.models import ModelService
from server.rpc.services.promotion_requests import PromotionRequestService
from server.rpc.services.promotions import PromotionService
from server.rpc.services.recalls import RecallService
from server.rpc.services.subscriptions import SubscriptionService
from server.rpc.transfers import TRANSFER_SECONDS
from server.storage.blobs import FileStore
from server.storage.contract import Repository

SERVICES = tuple(
    service.full_name for module in service_modules() for service in module.DESCRIPTOR.services_by_name.values()
)
MAX_METADATA_BYTES = 16 * 2**10
# How long a client may take to answer whether it is still there.
KEEPALIVE_TIMEOUT_SECONDS = 20.0
# How long a connection may take to become one of HTTP/2, with TLS where that is used.
HANDSHAKE_SECONDS = 10.0
# How many bytes of a stream may come in that nothing has asked for. The library would let it be more, the faster the
# connection is, up to megabytes of each of a thousand streams. Less slows down uploads from afar: bench/README.md.
UNASKED_BYTES = 2**20
# How many calls may wait for the one thread that takes them. Of more, the library cancels some at random, of any
# caller, and beyond three times as many all. Its own 1000 are four connections with all of their streams.
WAITING_CALLS = 4000

HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


def build_server(
    repository: Repository,
    files: FileStore,
    chain: Chain,
    health: Health,
    *,
    max_message_bytes: int,
    limits: Limits,
    secrets: SecretsKey,
    webhooks: WebhookRules = WebhookRules(),  # noqa: B008, as it is frozen
    file_quota: FileQuota = NO_QUOTA,
    watch_limits: WatchLimits = WatchLimits(),  # noqa: B008, as it is frozen
    reflection: bool = True,
) -> tuple[grpc.Server, InProcessServer]:
    """Return a server that has no port yet and is not started, and one for calls of this process itself.

    Both serve the services, and that of gRPC health and reflection, too.

    Raises StorageUnavailable where it cannot be read who is disabled.
    """

    def ping() -> None:
        repository.ping()
        chain.disabled.refresh(repository.disabled_principals)

    def check() -> None:
        ping()
        repository.require_writable()

    # Also on a disk that is full: then there is one more who can take roles away.
    ping()
    server = grpc.server(
        # It starts none of them: the chain has threads for each method.
        ThreadPoolExecutor(1),
        interceptors=[chain],
        options=[
            ("grpc.max_receive_message_length", max_message_bytes),
            # By default a token of 8 KiB is refused now and then; one of many groups is larger.
            ("grpc.max_metadata_size", MAX_METADATA_BYTES),
            ("grpc.absolute_max_metadata_size", 2 * MAX_METADATA_BYTES),
            # Worker processes share the port; the supervisor keeps other servers away.
            ("grpc.so_reuseport", 1),
            ("grpc.max_connection_age_ms", int(limits.max_connection_age * 1000)),
            # What has begun may go on for as long as a transfer may take.
            ("grpc.max_connection_age_grace_ms", int(TRANSFER_SECONDS * 1000)),
            ("grpc.server_handshake_timeout_ms", int(HANDSHAKE_SECONDS * 1000)),
            ("grpc.max_allowed_incoming_connections", limits.max_connections),
            ("grpc.max_concurrent_streams", limits.max_streams),
            ("grpc.server.max_pending_requests", WAITING_CALLS),
            ("grpc.server.max_pending_requests_hard_limit", 3 * WAITING_CALLS),
            ("grpc.keepalive_time_ms", int(limits.keepalive * 1000)),
            ("grpc.keepalive_timeout_ms", int(KEEPALIVE_TIMEOUT_SECONDS * 1000)),
            ("grpc.http2.bdp_probe", 0),
            ("grpc.http2.lookahead_bytes", UNASKED_BYTES),
            ("grpc.http2.min_ping_interval_without_data_ms", int(limits.min_ping * 1000)),
            ("grpc.keepalive_permit_without_calls", 1),
        ],
    )
    watch = EventWatch(repository, chain.withdrawn, watch_limits)
    chain.at_stop(watch.stop)
    # What generated code adds a service with, and the service.
    services: list[tuple[Callable[..., Any], object]] = [
        (
            model_service_pb2_grpc.add_ModelServiceServicer_to_server,
            ModelService(repository, files, current_caller, file_quota, chain.compare),
        ),
        (
            promotion_service_pb2_grpc.add_PromotionServiceServicer_to_server,
            PromotionService(repository, current_caller, chain.compare),
        ),
        (
            recall_service_pb2_grpc.add_RecallServiceServicer_to_server,
            RecallService(repository, current_caller, chain.compare),
        ),
        (
            promotion_request_service_pb2_grpc.add_PromotionRequestServiceServicer_to_server,
            PromotionRequestService(repository, current_caller, chain.compare),
        ),
        (
            event_service_pb2_grpc.add_EventServiceServicer_to_server,
            EventService(repository, current_caller, watch),
        ),
        (
            subscription_service_pb2_grpc.add_SubscriptionServiceServicer_to_server,
            SubscriptionService(repository, current_caller, webhooks, secrets),
        ),
        (
            access_service_pb2_grpc.add_AccessServiceServicer_to_server,
            AccessService(repository, current_caller, chain.disabled),
        ),
    ]
    in_process = InProcessServer(chain, max_message_bytes)
    for add_to_server, service in services:
        add_to_server(service, server)
        add_to_server(service, in_process)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    chain.self_check.add_to(server, check)
    if reflection:
        add_reflection(server, (*SERVICES, HEALTH))
    return server, in_process
