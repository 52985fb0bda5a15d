"""Commands that have events sent to URLs, and say what became of that."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from google.protobuf.message import Message

from modelregistry.v1.subscription_pb2 import DeliveryState
from modelregistry.v1.subscription_service_pb2 import (
    CreateSubscriptionRequest,
    DeleteSubscriptionRequest,
    GetSubscriptionRequest,
    ListDeliveriesRequest,
    ListSubscriptionsRequest,
    RedeliverEventsRequest,
    RotateSubscriptionSecretRequest,
    UpdateSubscriptionRequest,
)
from modelregistry_client import Registry
from server.cli.event_commands import OfBranch, Types, full_type
from server.cli.options import PageSize, PageToken, RequestId, option

Resource = Annotated[str, typer.Argument(help="The RID of the model or folder.")]
SubscriptionRid = Annotated[str, typer.Argument(help="The RID of the subscription.")]
Url = Annotated[str, typer.Argument(help="Where events are sent to.")]
OtherUrl = Annotated[str | None, option("--url", "Where events are sent to from now on.", metavar="URL")]
Description = Annotated[str | None, option("--description", "What it is for.", metavar="TEXT")]
# In a file, since all users of a machine see the options of its processes.
SecretFile = Annotated[
    Path | None,
    option("--secret-file", "A file with the secret, whsec_…; by default the server makes one up.", metavar="FILE"),
]
Paused = Annotated[bool | None, option("--paused/--active", "Whether events wait, or are sent.")]
ToClear = Annotated[
    list[str] | None,
    option("--clear", "What is to be unset: branch, types or description; may be repeated.", metavar="FIELD"),
]
RevokePrevious = Annotated[bool, option("--revoke-previous", "Let the secret before sign no longer.")]
OfState = Annotated[
    Literal["pending", "delivered", "dead", "dropped"] | None,
    option("--state", "Only those of which this has become."),
]
EventIds = Annotated[list[str] | None, typer.Argument(help="The ids of the events.")]
After = Annotated[str | None, option("--after", "All events behind this cursor, in place of ids.", metavar="CURSOR")]


def create_subscription(
    registry: Registry,
    resource_rid: Resource,
    url: Url,
    types: Types = None,
    branch: OfBranch = None,
    description: Description = None,
    secret_file: SecretFile = None,
    request_id: RequestId = None,
) -> Message:
    """Have the events of a model, or of a folder and the models in it, sent to a URL. Prints the secret, once.

    [bold]modelregistry create-subscription ri.models.main.model.… https://hooks.example.com/models
    --type version.promoted[/bold]
    """
    return registry.subscriptions.CreateSubscription(
        CreateSubscriptionRequest(
            resource_rid=resource_rid,
            url=url,
            types=map(full_type, types or ()),
            branch=branch,
            description=description,
            secret=_secret_in(secret_file),
            request_id=request_id,
        )
    )


def get_subscription(registry: Registry, subscription_rid: SubscriptionRid) -> Message:
    """Show a subscription.

    [bold]modelregistry get-subscription ri.models.main.subscription.…[/bold]
    """
    return registry.subscriptions.GetSubscription(GetSubscriptionRequest(subscription_rid=subscription_rid))


def list_subscriptions(
    registry: Registry, resource_rid: Resource, page_size: PageSize = 0, page_token: PageToken = None
) -> Message:
    """List the subscriptions of a model or folder, newest first.

    [bold]modelregistry list-subscriptions ri.models.main.model.… --output table[/bold]
    """
    request = ListSubscriptionsRequest(resource_rid=resource_rid, page_size=page_size, page_token=page_token)
    return registry.subscriptions.ListSubscriptions(request)


def update_subscription(
    registry: Registry,
    subscription_rid: SubscriptionRid,
    url: OtherUrl = None,
    paused: Paused = None,
    types: Types = None,
    branch: OfBranch = None,
    description: Description = None,
    clear: ToClear = None,
) -> Message:
    """Change a subscription: what is given is set, everything else stays.

    [bold]modelregistry update-subscription ri.models.main.subscription.… --active[/bold]
    """
    return registry.subscriptions.UpdateSubscription(
        UpdateSubscriptionRequest(
            subscription_rid=subscription_rid,
            url=url,
            paused=paused,
            types=map(full_type, types or ()),
            branch=branch,
            description=description,
            clear_fields=clear or (),
        )
    )


def rotate_secret(
    registry: Registry,
    subscription_rid: SubscriptionRid,
    secret_file: SecretFile = None,
    revoke_previous: RevokePrevious = False,
    request_id: RequestId = None,
) -> Message:
    """Give a subscription a new secret, which signs its webhooks; the one before signs, too, for 24 hours.

    [bold]modelregistry rotate-secret ri.models.main.subscription.…[/bold]
    """
    return registry.subscriptions.RotateSubscriptionSecret(
        RotateSubscriptionSecretRequest(
            subscription_rid=subscription_rid,
            secret=_secret_in(secret_file),
            revoke_previous=revoke_previous,
            request_id=request_id,
        )
    )


def delete_subscription(registry: Registry, subscription_rid: SubscriptionRid) -> Message:
    """Delete a subscription, with all that is queued for it.

    [bold]modelregistry delete-subscription ri.models.main.subscription.…[/bold]
    """
    return registry.subscriptions.DeleteSubscription(DeleteSubscriptionRequest(subscription_rid=subscription_rid))


def deliveries(
    registry: Registry,
    subscription_rid: SubscriptionRid,
    state: OfState = None,
    page_size: PageSize = 0,
    page_token: PageToken = None,
) -> Message:
    """List what became of the events of a subscription, newest first.

    [bold]modelregistry deliveries ri.models.main.subscription.… --state dead --output table[/bold]
    """
    return registry.subscriptions.ListDeliveries(
        ListDeliveriesRequest(
            subscription_rid=subscription_rid,
            state=DeliveryState.Value(f"DELIVERY_STATE_{(state or 'unspecified').upper()}"),
            page_size=page_size,
            page_token=page_token,
        )
    )


def redeliver(
    registry: Registry,
    subscription_rid: SubscriptionRid,
    event_ids: EventIds = None,
    after: After = None,
    request_id: RequestId = None,
) -> Message:
    """Send events to the URL of a subscription again, with the same ids.

    [bold]modelregistry redeliver ri.models.main.subscription.… 444e4fa0-385b-4e13-adf1-126247e226a4[/bold]
    """
    return registry.subscriptions.RedeliverEvents(
        RedeliverEventsRequest(
            subscription_rid=subscription_rid,
            event_ids=event_ids or (),
            after_cursor=after,
            request_id=request_id,
        )
    )


def _secret_in(file: Path | None) -> str | None:
    """Return the secret in a file; None if none is given. Raises typer.BadParameter."""
    if file is None:
        return None
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise typer.BadParameter(f"{file} cannot be read: {reason}") from None
