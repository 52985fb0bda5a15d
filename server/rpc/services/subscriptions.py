"""SubscriptionService: events sent to URLs."""

from __future__ import annotations

from collections.abc import Callable

import grpc

from modelregistry.v1 import subscription_service_pb2_grpc
from modelregistry.v1.subscription_pb2 import Subscription
from modelregistry.v1.subscription_service_pb2 import (
    CreateSubscriptionRequest,
    CreateSubscriptionResponse,
    DeleteSubscriptionRequest,
    DeleteSubscriptionResponse,
    GetSubscriptionRequest,
    ListDeliveriesRequest,
    ListDeliveriesResponse,
    ListSubscriptionsRequest,
    ListSubscriptionsResponse,
    RedeliverEventsRequest,
    RedeliverEventsResponse,
    RotateSubscriptionSecretRequest,
    RotateSubscriptionSecretResponse,
    UpdateSubscriptionRequest,
)
from server.auth.secrets_key import SecretsKey
from server.core.caller import Caller
from server.core.webhooks import WebhookRules
from server.rules.idempotency import is_repeatable
from server.rules.subscriptions import (
    create_subscription,
    delete_subscription,
    find_subscription,
    list_deliveries,
    list_subscriptions,
    redeliver_events,
    rotate_secret,
    update_subscription,
)
from server.storage.contract import LogEnd, Repository
from server.storage.paging import Paging


class SubscriptionService(subscription_service_pb2_grpc.SubscriptionServiceServicer):
    """Serves modelregistry.v1.SubscriptionService; requests are validated, `caller` tells whose they are.

    `allowed` says where webhooks may go; their secrets are encrypted under a key of `secrets`.
    """

    def __init__(
        self, repository: Repository, caller: Callable[[], Caller], allowed: WebhookRules, secrets: SecretsKey
    ):
        self._repository = repository
        self._caller = caller
        self._allowed = allowed
        self._secrets = secrets

    def CreateSubscription(
        self, request: CreateSubscriptionRequest, context: grpc.ServicerContext
    ) -> CreateSubscriptionResponse:
        """Have the events of a model or folder sent to a URL."""
        caller = self._caller()
        created = self._repository.write(
            lambda tx: create_subscription(tx, caller, request, self._allowed, self._secrets.seal),
            repeatable=is_repeatable(request),
            # What is committed from now on is sent, so nothing may be under way that is not.
            settles=True,
        )
        return CreateSubscriptionResponse(subscription=created.subscription, secret=created.secret)

    def GetSubscription(self, request: GetSubscriptionRequest, context: grpc.ServicerContext) -> Subscription:
        """Return a subscription."""
        caller = self._caller()
        return self._repository.read(lambda reader: find_subscription(reader, caller, request.subscription_rid))

    def ListSubscriptions(
        self, request: ListSubscriptionsRequest, context: grpc.ServicerContext
    ) -> ListSubscriptionsResponse:
        """Return a page of a resource's subscriptions."""
        caller = self._caller()
        paging = Paging(str, "ListSubscriptions", request.resource_rid)
        wanted = paging.page_request(request.page_size, request.page_token)
        page = self._repository.read(lambda reader: list_subscriptions(reader, caller, request.resource_rid, wanted))
        return ListSubscriptionsResponse(subscriptions=page.items, next_page_token=paging.next_token(page))

    def UpdateSubscription(self, request: UpdateSubscriptionRequest, context: grpc.ServicerContext) -> Subscription:
        """Change what is given."""
        caller = self._caller()
        return self._repository.write(lambda tx: update_subscription(tx, caller, request, self._allowed))

    def DeleteSubscription(
        self, request: DeleteSubscriptionRequest, context: grpc.ServicerContext
    ) -> DeleteSubscriptionResponse:
        """Send nothing there any more."""
        caller = self._caller()
        self._repository.write(
            lambda tx: delete_subscription(tx, caller, request.subscription_rid), may_use_reserve=True
        )
        return DeleteSubscriptionResponse()

    def RotateSubscriptionSecret(
        self, request: RotateSubscriptionSecretRequest, context: grpc.ServicerContext
    ) -> RotateSubscriptionSecretResponse:
        """Sign with a new secret, and for a while with the one before, too."""
        caller = self._caller()
        rotated = self._repository.write(
            lambda tx: rotate_secret(tx, caller, request, self._secrets.seal), repeatable=is_repeatable(request)
        )
        return RotateSubscriptionSecretResponse(subscription=rotated.subscription, secret=rotated.secret)

    def ListDeliveries(self, request: ListDeliveriesRequest, context: grpc.ServicerContext) -> ListDeliveriesResponse:
        """Return a page of a subscription's deliveries."""
        caller = self._caller()
        paging = Paging(str, "ListDeliveries", request.subscription_rid, request.state)
        wanted = paging.page_request(request.page_size, request.page_token)
        page = self._repository.read(lambda reader: list_deliveries(reader, caller, request, wanted))
        return ListDeliveriesResponse(deliveries=page.items, next_page_token=paging.next_token(page))

    def RedeliverEvents(
        self, request: RedeliverEventsRequest, context: grpc.ServicerContext
    ) -> RedeliverEventsResponse:
        """Send events again."""
        caller = self._caller()
        settled = self._repository.settled_event() if request.HasField("after_cursor") else LogEnd()
        return self._repository.write(
            lambda tx: redeliver_events(tx, caller, request, settled), repeatable=is_repeatable(request)
        )
