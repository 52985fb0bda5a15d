"""`Reader` and `Transaction` of the contract: thin fronts over the modules of the subjects."""

from __future__ import annotations

from server.storage.sql import (
    branch_policies,
    deliveries,
    event_expiry,
    event_log,
    fan_out,
    files,
    folder_policies,
    grants,
    head_apis,
    lineage,
    models,
    principals,
    promotion_facts,
    promotion_records,
    promotion_requests,
    promotions_in_order,
    recalls,
    subscriptions,
    tenures,
    versions,
)
from server.storage.sql.unit_of_work import UnitOfWork


class SqlReader(UnitOfWork):
    """`server.storage.contract.Reader` over one session."""

    get_model = models.get_model
    list_models = models.list_models
    visible_models = models.visible_models

    find_version = versions.find_version
    find_numbered_version = versions.find_numbered_version
    get_branch = versions.get_branch
    list_branches = versions.list_branches
    list_versions = versions.list_versions
    get_model_api = versions.get_model_api
    require_fitting = versions.require_fitting

    get_promotion_facts = promotion_facts.get_promotion_facts
    find_verdict = promotion_facts.find_verdict
    get_findings = promotion_facts.get_findings
    list_head_apis = head_apis.list_head_apis
    unused_verdicts = promotion_facts.unused_verdicts
    find_request = promotion_facts.find_request
    get_policy = branch_policies.get_policy
    list_policies = branch_policies.list_policies
    find_promotion = promotion_records.find_promotion
    get_promotion_rid = promotion_records.get_promotion_rid
    list_promotions = promotion_records.list_promotions
    list_promotions_in_order = promotions_in_order.list_promotions_in_order
    get_lineage = lineage.get_lineage
    find_yank = recalls.find_yank
    list_yanks = recalls.list_yanks
    list_live_copies = recalls.list_live_copies
    list_tenures = tenures.list_tenures
    was_rolled_back = tenures.was_rolled_back
    authors_of = lineage.authors_of
    find_promotion_request = promotion_requests.find_promotion_request
    find_open_request = promotion_requests.find_open_request
    find_open_change = promotion_requests.find_open_change
    list_promotion_requests = promotion_requests.list_promotion_requests

    list_events = event_log.list_events
    find_event = event_log.find_event
    event_key = event_log.event_key
    event_further_on = event_log.event_further_on
    event_cursor = event_log.event_cursor
    require_event = event_log.require_event

    grantees = grants.grantees
    find_subscription = subscriptions.find_subscription
    list_subscriptions = subscriptions.list_subscriptions
    count_subscriptions = subscriptions.count_subscriptions
    list_deliveries = deliveries.list_deliveries
    delivery_work = fan_out.delivery_work

    get_role = grants.get_role
    owners = grants.owners
    get_folder_policy = folder_policies.get_folder_policy
    list_disabled_principals = principals.list_disabled_principals
    is_disabled = principals.is_disabled
    list_grants = grants.list_grants
    list_grant_changes = grants.list_grant_changes

    find_file = files.find_file
    get_file_uses = files.get_file_uses
    some_files = files.some_files
    unnamed_files = files.unnamed_files
    known_objects = files.known_objects
    registry_id = files.registry_id


class SqlTransaction(SqlReader):
    """`server.storage.contract.Transaction` over one session, which its repository commits."""

    add_model = models.add_model

    put_content = versions.put_content
    append_version = versions.append_version

    lock_branches = promotion_facts.lock_branches
    add_verdict = promotion_facts.add_verdict
    add_head_api = head_apis.add_head_api
    remove_unused_verdict = promotion_facts.remove_unused_verdict
    claim_request = promotion_facts.claim_request
    append_promoted = promotion_records.append_promoted
    add_policy = branch_policies.add_policy
    add_yank = recalls.add_yank
    take_yank_back = recalls.take_yank_back
    add_promotion_request = promotion_requests.add_promotion_request
    lock_promotion_request = promotion_requests.lock_promotion_request
    add_review = promotion_requests.add_review
    close_promotion_request = promotion_requests.close_promotion_request

    lock_subscriptions = subscriptions.lock_subscriptions
    add_subscription = subscriptions.add_subscription
    lock_subscription = subscriptions.lock_subscription
    change_subscription = subscriptions.change_subscription
    set_secret = subscriptions.set_secret
    remove_subscription = subscriptions.remove_subscription
    fan_out_events = fan_out.fan_out_events
    lease_queues = deliveries.lease_queues
    next_delivery = deliveries.next_delivery
    begin_attempt = deliveries.begin_attempt
    drop_delivery = deliveries.drop_delivery
    end_attempt = deliveries.end_attempt
    failing_since = deliveries.failing_since
    hold_back = deliveries.hold_back
    give_back = deliveries.give_back
    requeue = fan_out.requeue
    requeue_behind = fan_out.requeue_behind
    remove_old_deliveries = deliveries.remove_old_deliveries

    set_grant = grants.set_grant
    remove_grant = grants.remove_grant
    lock_owners = grants.lock_owners
    add_folder_policy = folder_policies.add_folder_policy
    disable_principal = principals.disable_principal
    enable_principal = principals.enable_principal

    begin_upload = files.begin_upload
    finish_upload = files.finish_upload
    keep_upload = files.keep_upload
    replace_object = files.replace_object
    give_up_upload = files.give_up_upload
    find_upload = files.find_upload
    remove_expired_uploads = files.remove_expired_uploads
    remove_unnamed_file = files.remove_unnamed_file
    remove_old_events = event_expiry.remove_old_events
