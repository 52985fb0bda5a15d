"""The tables as the newest migration leaves them; a test holds the two equal.

Times are milliseconds since the epoch. Text is compared and sorted by code point on every backend, and a unique index
over long text holds its digest, since PostgreSQL refuses index rows over 2,704 bytes.
"""

from __future__ import annotations

from typing import TypeAlias

from sqlalchemy import (
    BigInteger,
    BindParameter,
    Boolean,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    ScalarSelect,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    and_,
    false,
    select,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite generates keys for INTEGER alone.
Key = BigInteger().with_variant(Integer, "sqlite")
CodePointText = Text().with_variant(Text(collation="C"), "postgresql")

models = Table(
    "models",
    metadata,
    Column("id", Key, primary_key=True),
    Column("rid", CodePointText, nullable=False, unique=True),
    Column("name", CodePointText, nullable=False),
    Column("name_digest", LargeBinary, nullable=False),
    Column("parent_folder_rid", CodePointText, nullable=False),
    Column("created_time", BigInteger, nullable=False),
    Column("created_by", CodePointText, nullable=False),
    UniqueConstraint("parent_folder_rid", "name_digest"),
    Index("ix_models_parent_folder_rid_rid", "parent_folder_rid", "rid"),
)

branches = Table(
    "branches",
    metadata,
    Column("id", Key, primary_key=True),
    Column("model_id", ForeignKey(models.c.id), nullable=False),
    Column("name", CodePointText, nullable=False),
    # Also the number of the head; the row is the lock of the branch.
    Column("version_count", Integer, nullable=False),
    # The hash of the promotion that was chained last; None before the first.
    Column("chain", LargeBinary),
    UniqueConstraint("model_id", "name"),
)

# Model files that are complete: which object of the file store holds the bytes with this SHA-256.
files = Table(
    "files",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("object_name", CodePointText, nullable=False, unique=True),
    Column("size", BigInteger, nullable=False),
)

# What versions share: a serialized ModelVersion with nothing but its content set, and the model files.
contents = Table(
    "contents",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("payload", LargeBinary, nullable=False),
    Column("size", Integer, nullable=False),
    Column("file_digest", ForeignKey(files.c.digest)),
    Index("ix_contents_file_digest", "file_digest"),
)

versions = Table(
    "versions",
    metadata,
    Column("id", Key, primary_key=True),
    Column("rid", CodePointText, nullable=False, unique=True),
    Column("branch_id", ForeignKey(branches.c.id), nullable=False),
    Column("version_number", Integer, nullable=False),
    Column("content_digest", ForeignKey(contents.c.digest), nullable=False),
    # A serialized ModelVersionSource, or else the JSON text of a source that it cannot express.
    Column("source", LargeBinary),
    Column("legacy_source", CodePointText),
    Column("root_rid", CodePointText, nullable=False),
    Column("created_time", BigInteger, nullable=False),
    Column("created_by", CodePointText, nullable=False),
    # When it was imported. None of what was made here, and of what earlier releases imported.
    Column("imported_time", BigInteger),
    UniqueConstraint("branch_id", "version_number"),
)

# Uploads of model files: the row is there before the object is, so that the object is not taken for garbage. Who
# reads this table learns no id that could be used.
uploads = Table(
    "uploads",
    metadata,
    Column("id_digest", LargeBinary, primary_key=True),
    Column("caller", CodePointText, nullable=False),
    Column("model_id", ForeignKey(models.c.id), nullable=False),
    Column("object_name", CodePointText, nullable=False, unique=True),
    Column("expire_time", BigInteger, nullable=False),
    # None until the upload is complete. What holds the bytes is then said by `files`.
    Column("file_digest", ForeignKey(files.c.digest)),
    Column("size", BigInteger),
    # Whether a version was created with it. If none was, its bytes count no longer than it lives.
    Column("is_named", Boolean, nullable=False, server_default=false()),
    Index("ix_uploads_expire_time", "expire_time"),
    Index("ix_uploads_caller_expire_time", "caller", "expire_time"),
    Index("ix_uploads_file_digest", "file_digest"),
)

# How many bytes of model files count for a principal, and for a folder: those of all uploads that versions were created
# with, and of those that still live.
file_usage = Table(
    "file_usage",
    metadata,
    Column("holder", CodePointText, primary_key=True),
    Column("size", BigInteger, nullable=False),
)

# One row. It keeps the objects of this registry apart from those of others in the same file store.
identity = Table("identity", metadata, Column("registry_id", CodePointText, primary_key=True))

grants = Table(
    "grants",
    metadata,
    Column("resource_rid", CodePointText, primary_key=True),
    Column("principal", CodePointText, primary_key=True),
    Column("role", SmallInteger, nullable=False),
    Index("ix_grants_principal_resource_rid", "principal", "resource_rid"),
)

# Append-only: who changed which grant, and when. No role means that the grant was taken away.
grant_changes = Table(
    "grant_changes",
    metadata,
    Column("id", Key, primary_key=True),
    Column("resource_rid", CodePointText, nullable=False),
    Column("principal", CodePointText, nullable=False),
    Column("role", SmallInteger),
    Column("changed_by", CodePointText, nullable=False),
    Column("changed_time", BigInteger, nullable=False),
    Index("ix_grant_changes_resource_rid_id", "resource_rid", "id"),
)

# Append-only: who said what holds for the models that are created in a folder, and when. The newest one holds.
folder_policies = Table(
    "folder_policies",
    metadata,
    Column("id", Key, primary_key=True),
    Column("folder_rid", CodePointText, nullable=False),
    Column("new_model_owner", SmallInteger, nullable=False),
    Column("changed_by", CodePointText, nullable=False),
    Column("changed_time", BigInteger, nullable=False),
    Index("ix_folder_policies_folder_rid_id", "folder_rid", "id"),
)

# Append-only: who disabled which principal, when and why; no reason means that it was enabled. The newest one holds.
principal_changes = Table(
    "principal_changes",
    metadata,
    Column("id", Key, primary_key=True),
    Column("principal", CodePointText, nullable=False),
    Column("reason", CodePointText),
    Column("changed_by", CodePointText, nullable=False),
    Column("changed_time", BigInteger, nullable=False),
    Index("ix_principal_changes_principal_id", "principal", "id"),
)

# What the comparison of two contents found, by the rules of that time: a serialized Promotion with nothing but findings
# and their counts. Two transactions may store the same verdict, since neither waits for the other. What no promotion
# cites is removed after a while.
verdicts = Table(
    "verdicts",
    metadata,
    Column("id", Key, primary_key=True),
    Column("head_digest", ForeignKey(contents.c.digest), nullable=False),
    Column("candidate_digest", ForeignKey(contents.c.digest), nullable=False),
    Column("rules", Integer, nullable=False),
    Column("error_count", Integer, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("size", Integer, nullable=False),
    # 0 of what was stored before there was this column.
    Column("created_time", BigInteger, nullable=False, server_default="0"),
    Index("ix_verdicts_head_digest_candidate_digest", "head_digest", "candidate_digest", "rules"),
)

# Append-only: each promotion. Branch, number and the head that was replaced are those of its version.
promotions = Table(
    "promotions",
    metadata,
    Column("id", Key, primary_key=True),
    Column("rid", CodePointText, nullable=False, unique=True),
    Column("kind", SmallInteger, nullable=False),
    Column("version_id", ForeignKey(versions.c.id), nullable=False, unique=True),
    Column("model_id", ForeignKey(models.c.id), nullable=False),
    # By RID: what was imported may come from versions that are stored later, or never.
    Column("source_model_rid", CodePointText, nullable=False),
    Column("source_rid", CodePointText, nullable=False),
    Column("verdict_id", ForeignKey(verdicts.c.id)),
    Column("reason", CodePointText),
    Column("created_time", BigInteger, nullable=False),
    Column("created_by", CodePointText, nullable=False),
    # Its place in the chain of its branch: `server.core.integrity`. None of what servers of earlier releases
    # recorded, until `migrate` chains it.
    Column("previous_hash", LargeBinary),
    Column("hash", LargeBinary),
    # Whether an import brought it, whose source need not be stored. None of what was recorded before this was asked.
    Column("was_imported", Boolean),
    # What it was decided under: the revisions of policies, if any was set, and the request whose approvals it needed.
    Column("policy_revision", Integer),
    Column("folder_policy_revision", Integer),
    Column("promotion_request_rid", CodePointText),
    # Whether an owner had a rollback pass that the rules refuse.
    Column("override", Boolean),
    Index("ix_promotions_created_time_id", "created_time", "id"),
    Index("ix_promotions_model_id_created_time", "model_id", "created_time", "id"),
    Index("ix_promotions_model_id_id", "model_id", "id"),
    Index("ix_promotions_created_by_created_time", "created_by", "created_time", "id"),
    Index("ix_promotions_source_rid_created_time", "source_rid", "created_time", "id"),
    Index(
        "ix_promotions_verdict_id",
        "verdict_id",
        postgresql_where=text("verdict_id IS NOT NULL"),
        sqlite_where=text("verdict_id IS NOT NULL"),
    ),
)

# Append-only: which version was yanked, by whom, when and why; `root_rid` is the version's. A yank holds as long as
# there is no row of `unyanks` for it.
yanks = Table(
    "yanks",
    metadata,
    Column("id", Key, primary_key=True),
    Column("rid", CodePointText, nullable=False, unique=True),
    Column("version_id", ForeignKey(versions.c.id), nullable=False),
    Column("root_rid", CodePointText, nullable=False),
    Column("scope", SmallInteger, nullable=False),
    Column("reason", CodePointText, nullable=False),
    Column("yanked_by", CodePointText, nullable=False),
    Column("yanked_time", BigInteger, nullable=False),
    Index("ix_yanks_root_rid_id", "root_rid", "id"),
    Index("ix_yanks_version_id_id", "version_id", "id"),
)

# Append-only: which yank was taken back, by whom, when and why.
unyanks = Table(
    "unyanks",
    metadata,
    Column("yank_id", ForeignKey(yanks.c.id), primary_key=True),
    Column("reason", CodePointText),
    Column("unyanked_by", CodePointText, nullable=False),
    Column("unyanked_time", BigInteger, nullable=False),
)

# Append-only: who set which policy of a branch, and when. The newest one holds.
branch_policies = Table(
    "branch_policies",
    metadata,
    Column("id", Key, primary_key=True),
    Column("model_id", ForeignKey(models.c.id), nullable=False),
    Column("branch", CodePointText, nullable=False),
    Column("compatibility", SmallInteger, nullable=False),
    Column("changed_by", CodePointText, nullable=False),
    Column("changed_time", BigInteger, nullable=False),
    # None of what servers of the release before set: then it is how many there are up to this one.
    Column("revision", Integer),
    # A serialized BranchPolicy with what has no column; None if it is nothing.
    Column("rules", LargeBinary),
    Index("ix_branch_policies_model_id_branch", "model_id", "branch", "id"),
    Index("ix_branch_policies_revision", "model_id", "branch", "revision", unique=True),
)

# Append-only: who set which policy on a folder for the branches of a name, and when. The newest one holds.
folder_branch_policies = Table(
    "folder_branch_policies",
    metadata,
    Column("id", Key, primary_key=True),
    Column("folder_rid", CodePointText, nullable=False),
    Column("branch", CodePointText, nullable=False),
    Column("revision", Integer, nullable=False),
    # A serialized BranchPolicy with its rules.
    Column("rules", LargeBinary, nullable=False),
    Column("changed_by", CodePointText, nullable=False),
    Column("changed_time", BigInteger, nullable=False),
    Index("ix_folder_branch_policies_revision", "folder_rid", "branch", "revision", unique=True),
)

# Append-only: the distinct Model APIs that heads of a branch have had while a policy compared with all of them, each by
# the SHA-256 of its serialization and the first version that had it. Which policy of a branch or of a folder that was,
# and since which revision, tells apart what counts from what counted before.
branch_model_apis = Table(
    "branch_model_apis",
    metadata,
    Column("branch_id", Key, primary_key=True),
    Column("level_rid", CodePointText, primary_key=True),
    Column("since_revision", Integer, primary_key=True),
    Column("version_number", Integer, primary_key=True),
    Column("api_digest", LargeBinary, nullable=False),
    ForeignKeyConstraint(["branch_id", "version_number"], [versions.c.branch_id, versions.c.version_number]),
)

# Requests for promotion, and for changes of policies, which have no source. What is decided is stored once, as
# `closed_as`, a PromotionRequestState: then the row is never changed again. One that has expired gets it when another
# takes its place.
promotion_requests = Table(
    "promotion_requests",
    metadata,
    Column("id", Key, primary_key=True),
    Column("rid", CodePointText, nullable=False, unique=True),
    Column("kind", SmallInteger, nullable=False),
    # None if the policy of a folder is to be changed.
    Column("model_id", ForeignKey(models.c.id)),
    Column("branch", CodePointText, nullable=False),
    Column("source_model_rid", CodePointText),
    Column("source_rid", CodePointText),
    Column("content_digest", LargeBinary),
    # The head when it was made, and how many findings there were with it.
    Column("head_rid", CodePointText),
    Column("error_count", Integer, nullable=False),
    Column("warning_count", Integer, nullable=False),
    Column("reason", CodePointText),
    Column("requested_by", CodePointText, nullable=False),
    Column("created_time", BigInteger, nullable=False),
    # By the policies of that time.
    Column("expire_time", BigInteger, nullable=False),
    Column("closed_as", SmallInteger),
    Column("closed_by", CodePointText),
    Column("closed_time", BigInteger),
    Column("promotion_rid", CodePointText),
    Column("version_rid", CodePointText),
    # A serialized PolicyChange in its canonical form, and the SHA-256 of that.
    Column("change", LargeBinary),
    Column("change_digest", LargeBinary),
    Column("change_folder_rid", CodePointText),
    Column("made_revision", Integer),
    # At most one of the same is open.
    Index(
        "ix_promotion_requests_open",
        "model_id",
        "branch",
        "source_rid",
        unique=True,
        postgresql_where=text("closed_as IS NULL"),
        sqlite_where=text("closed_as IS NULL"),
    ),
    Index(
        "ix_promotion_requests_open_change",
        "change_digest",
        unique=True,
        postgresql_where=text("closed_as IS NULL"),
        sqlite_where=text("closed_as IS NULL"),
    ),
    Index("ix_promotion_requests_model_id_id", "model_id", "id"),
    Index(
        "ix_promotion_requests_change_folder_rid_id",
        "change_folder_rid",
        "id",
        postgresql_where=text("change_folder_rid IS NOT NULL"),
        sqlite_where=text("change_folder_rid IS NOT NULL"),
    ),
    Index(
        "ix_promotion_requests_open_id",
        "id",
        postgresql_where=text("closed_as IS NULL"),
        sqlite_where=text("closed_as IS NULL"),
    ),
)

# Append-only: what reviewers said, under which principals, separated by line feeds, and which head they saw, or
# which revision of the policy that is to be changed.
promotion_reviews = Table(
    "promotion_reviews",
    metadata,
    Column("id", Key, primary_key=True),
    Column("request_id", ForeignKey(promotion_requests.c.id), nullable=False),
    Column("verdict", SmallInteger, nullable=False),
    Column("reviewed_by", CodePointText, nullable=False),
    Column("principals", CodePointText, nullable=False),
    Column("head_rid", CodePointText),
    Column("comment", CodePointText),
    Column("created_time", BigInteger, nullable=False),
    Column("policy_revision", Integer),
    Index("ix_promotion_reviews_request_id_id", "request_id", "id"),
)

# Append-only: the requests with an id that were carried out, and the RIDs of what they made, separated by spaces.
requests = Table(
    "requests",
    metadata,
    Column("caller", CodePointText, primary_key=True),
    Column("rpc", CodePointText, primary_key=True),
    Column("request_id", CodePointText, primary_key=True),
    Column("digest", LargeBinary, nullable=False),
    Column("results", CodePointText, nullable=False),
    Column("created_time", BigInteger, nullable=False),
)

# Append-only, until `gc` removes what is older than the retention: what was changed, when and by whom. `type` is an
# EventType, and what has no column is in a serialized Event. About a model, a folder or neither; `model_id` refers to
# no row of `models`, since to check that would take as long as the rest of the INSERT.
events = Table(
    "events",
    metadata,
    Column("id", Key, primary_key=True),
    Column("type", SmallInteger, nullable=False),
    # The type again, but for FREQUENT ones: so that these are not in the indexes by type.
    Column("rare_type", SmallInteger),
    Column("model_id", BigInteger),
    Column("folder_rid", CodePointText),
    Column("branch", CodePointText),
    Column("actor", CodePointText, nullable=False),
    Column("created_time", BigInteger, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Index("ix_events_model_id_id", "model_id", "id"),
    Index("ix_events_actor_id", "actor", "id"),
    Index(
        "ix_events_folder_rid_id",
        "folder_rid",
        "id",
        postgresql_where=text("folder_rid IS NOT NULL"),
        sqlite_where=text("folder_rid IS NOT NULL"),
    ),
    *(
        Index(
            f"ix_events_{'_'.join(columns)}",
            *columns,
            postgresql_where=text("rare_type IS NOT NULL"),
            sqlite_where=text("rare_type IS NOT NULL"),
        )
        for columns in (("rare_type", "id"), ("rare_type", "model_id", "id"))
    ),
)

# One row, made by the migration: up to which key `gc` has removed events.
event_retention = Table(
    "event_retention",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("removed_up_to", BigInteger, nullable=False),
)

# Where events are sent to: those about a model, or about a folder and the models in it, behind the key `since_event`.
# Each bit of `types` is that of the EventType of this number; NULL lets all through. Secrets are encrypted under a key
# that is not here, and the previous one signs until its time.
subscriptions = Table(
    "subscriptions",
    metadata,
    Column("id", Key, primary_key=True),
    Column("rid", CodePointText, nullable=False, unique=True),
    Column("resource_rid", CodePointText, nullable=False),
    Column("branch", CodePointText),
    Column("types", BigInteger),
    Column("url", CodePointText, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("description", CodePointText),
    Column("created_by", CodePointText, nullable=False),
    Column("created_time", BigInteger, nullable=False),
    Column("changed_time", BigInteger),
    Column("since_event", BigInteger, nullable=False),
    Column("secret", LargeBinary, nullable=False),
    Column("previous_secret", LargeBinary),
    Column("previous_expire_time", BigInteger),
    Index("ix_subscriptions_resource_rid_id", "resource_rid", "id"),
    Index("ix_subscriptions_created_by", "created_by"),
    # Of those that are not disabled: who delivers looks for the least, some four times a second.
    Index(
        "ix_subscriptions_since_event",
        "since_event",
        postgresql_where=text("state != 3"),
        sqlite_where=text("state != 3"),
    ),
)

# What a process needs to send the events of a subscription: when there is something to do, and who does it until when.
delivery_queues = Table(
    "delivery_queues",
    metadata,
    Column("subscription_id", ForeignKey(subscriptions.c.id, ondelete="CASCADE"), primary_key=True),
    # NULL where nothing waits.
    Column("due_time", BigInteger),
    Column("lease", CodePointText),
    Column("leased_until", BigInteger),
    # Since when no attempt has succeeded, and until when the next one waits.
    Column("failing_since", BigInteger),
    Column("held_until", BigInteger),
    Index("ix_delivery_queues_due_time", "due_time"),
)

# Events that are to be sent or were, by subscription, until `gc` removes them; of attempts, the newest one.
# `tried_since` is the time of the first one since the event was queued.
deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Key, primary_key=True),
    Column("subscription_id", ForeignKey(subscriptions.c.id, ondelete="CASCADE"), nullable=False),
    Column("event_key", BigInteger, nullable=False),
    Column("event_id", CodePointText, nullable=False),
    Column("event_type", SmallInteger, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("queued_time", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("tried_since", BigInteger),
    Column("attempt_time", BigInteger),
    Column("duration_ms", Integer),
    Column("http_status", Integer),
    Column("answer", LargeBinary),
    Column("error", CodePointText),
    Column("next_time", BigInteger),
    UniqueConstraint("subscription_id", "event_id"),
    Index("ix_deliveries_subscription_id_state_event_key", "subscription_id", "state", "event_key"),
    Index("ix_deliveries_subscription_id_event_key", "subscription_id", "event_key"),
)

# One row, made by the migration: the key up to which events were queued for subscriptions.
event_fan_out = Table(
    "event_fan_out",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("position", BigInteger, nullable=False),
)

# One row, made by the migration: the secret with which keys of these tables are encrypted in what callers are given.
opaque_keys = Table(
    "opaque_keys",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("key", LargeBinary, nullable=False),
)

# Which row a name means

Name: TypeAlias = str | BindParameter[str]

# Of a row of `versions` and one of `branches`: it is the newest of that branch.
is_head = and_(versions.c.branch_id == branches.c.id, versions.c.version_number == branches.c.version_count)


def model_id(model_rid: Name) -> ScalarSelect[int]:
    """The key of the model with this RID."""
    return select(models.c.id).where(models.c.rid == model_rid).scalar_subquery()


def branch_id(model_rid: Name, branch: Name) -> ScalarSelect[int]:
    """The key of the branch of this name, of the model with this RID."""
    query = select(branches.c.id).where(branches.c.model_id == model_id(model_rid), branches.c.name == branch)
    return query.scalar_subquery()
