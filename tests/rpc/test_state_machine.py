"""Whatever is called in whatever order, the registry answers as the reference does, and keeps nothing else."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from modelregistry.v1.access_service_pb2 import ROLE_EDITOR, ROLE_OWNER, ROLE_PROMOTER, ROLE_VIEWER
from modelregistry.v1.compatibility_pb2 import (
    COMPATIBILITY_MODE_ENFORCE,
    COMPATIBILITY_MODE_ENFORCE_TRANSITIVE,
    COMPATIBILITY_MODE_OFF,
    COMPATIBILITY_MODE_WARN,
)
from modelregistry.v1.model_api_pb2 import (
    Column,
    DataType,
    DoubleType,
    ModelApi,
    ModelApiInput,
    StringType,
    UnsupportedType,
)
from modelregistry.v1.model_pb2 import ModelVersion, ModelVersionSource, SdkSource
from modelregistry.v1.promotion_pb2 import Promotion
from modelregistry.v1.promotion_service_pb2 import GetLineageResponse
from server.rules.fsck import Examination
from server.storage.sql import tables
from server.storage.sql.database import kept_database
from server.storage.sql.inventory import open_inventory
from tests.builders import model_api, new_folder_rid
from tests.conftest import OpenRepository
from tests.rpc.harness import SOME_MODEL, SOME_VERSION, Registry, User, failure_of, request_of, serving
from tests.rpc.reference import Made, Person, Reference, Refusal, content_of
from tests.storage.inspection import row_counts, rows

RUNS = settings(
    max_examples=20,
    stateful_step_count=40,
    phases=[Phase.reuse, Phase.generate, Phase.shrink],
)
# Whatever fails is made smaller for as long as five minutes.
TIMEOUT_SECONDS = 600


def model_apis() -> list[ModelApi]:
    """Some that replace each other without findings, with warnings, and with errors."""
    plain, tolerant, demanding, mute, odd, other = (model_api() for _ in range(6))
    number, text = DataType(double=DoubleType()), DataType(string=StringType())
    tolerant.inputs[0].tabular.columns.append(Column(name="more", required=False, data_type=number))
    demanding.inputs[0].tabular.columns.append(Column(name="more", data_type=number))
    mute.ClearField("outputs")
    odd.inputs.append(ModelApiInput(unsupported=UnsupportedType(unsupported_type="tensor")))
    # Replaces all but the tolerant one and the demanding one, also in two steps.
    other.inputs[0].tabular.columns.append(Column(name="more", required=False, data_type=text))
    return [plain, tolerant, demanding, mute, odd, other]


MODEL_APIS = model_apis()
ROLES = [ROLE_VIEWER, ROLE_PROMOTER, ROLE_EDITOR, ROLE_OWNER]
POLICIES = [COMPATIBILITY_MODE_OFF, COMPATIBILITY_MODE_WARN, COMPATIBILITY_MODE_ENFORCE]
POLICIES += 2 * [COMPATIBILITY_MODE_ENFORCE_TRANSITIVE]

who = st.sampled_from(["admin", "admin", "admin", "ann", "bob", "cid"])


class RegistryMachine(RuleBasedStateMachine):
    """Calls whatever, as anyone. Each run has folders, people and contents of its own in the same database."""

    def __init__(self, registry: Registry, url: str) -> None:
        super().__init__()
        self.url = url
        self.reference = Reference()
        self.counts_before = row_counts(url)
        self.run = str(uuid.uuid4())
        self.folders = [new_folder_rid(), new_folder_rid()]
        self.team = f"group:team-{self.run}"
        self.users: dict[str, User] = {"admin": registry.user("admin")}
        self.people = {"admin": Person(("user:admin",), is_admin=True)}
        for name in ("ann", "bob", "cid"):
            groups = [self.team] if name == "cid" else []
            self.users[name] = registry.user(f"{name}-{self.run}", *(group.removeprefix("group:") for group in groups))
            self.people[name] = Person((f"user:{name}-{self.run}", *groups))
        # The requests with an id so far, and who sent them.
        self.repeatable: list[tuple[str, str, Any]] = []

    # What is drawn: mostly what can succeed

    def model(self, data: st.DataObject) -> str:
        models = list(self.reference.models)
        return data.draw(st.sampled_from([*models[:2] * 5, *models, SOME_MODEL]), "model")

    def version(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from([*list(self.reference.versions) * 4, SOME_VERSION]), "version")

    def branch(self, data: st.DataObject) -> str | None:
        return data.draw(st.sampled_from([None, None, "master", "release"]), "branch")

    def reason(self, data: st.DataObject) -> str | None:
        return data.draw(st.sampled_from([None, "in haste", "tested at length"]), "reason")

    def request_id(self, data: st.DataObject) -> str | None:
        """None, a new one, or one that somebody has sent, in small letters or in large ones."""
        used = [request.request_id for _, _, request in self.repeatable]
        kind = data.draw(st.sampled_from(["none", "new", "new", "new", "used"] if used else ["none", "new"]), "id")
        if kind == "used":
            return data.draw(st.sampled_from([str.lower, str.upper]))(data.draw(st.sampled_from(used)))
        return str(uuid.uuid4()) if kind == "new" else None

    def expected_head(self, data: st.DataObject, model_rid: str, branch: str | None) -> str | None:
        head = self.reference.head(model_rid, branch or "master")
        right = None if head is None else head.rid
        return data.draw(st.sampled_from([None, None, None, right, right, right, self.version(data)]), "expected head")

    def promotion(self, data: st.DataObject) -> dict[str, Any]:
        model_rid, branch = self.model(data), self.branch(data)
        return {
            "model_rid": model_rid,
            "source_model_version_rid": self.version(data),
            "branch": branch,
            "expected_head_version_rid": self.expected_head(data, model_rid, branch),
            "reason": self.reason(data),
        }

    def grantee(self, data: st.DataObject) -> dict[str, str]:
        principals = [*(person.principals[0] for person in self.people.values()), self.team]
        resource_rids = [*self.folders, *self.reference.models, SOME_MODEL]
        return {
            "resource_rid": data.draw(st.sampled_from(resource_rids), "resource"),
            "principal": data.draw(st.sampled_from(principals), "principal"),
        }

    # What is called

    @initialize()
    def begin(self) -> None:
        """Two models that some may use, and one in another folder; the second enforces compatibility on `master`."""
        rids = []
        for name, folder, apis in (("staging", 0, [0, 2]), ("production", 0, [2, 0]), ("hidden", 1, [0])):
            place = {"name": name, "parent_folder_rid": self.folders[folder]}
            rids.append(self.change("admin", "CreateModel", **place).rid)
            for api in apis:
                content = {"model_api": MODEL_APIS[api], "conda_requirements": [self.run]}
                self.change("admin", "CreateModelVersion", model_rid=rids[-1], **content)
        staging, production, _ = rids
        for policy in (COMPATIBILITY_MODE_OFF, COMPATIBILITY_MODE_ENFORCE):
            self.change("admin", "SetBranchPolicy", model_rid=production, compatibility=policy)
        self.change("admin", "SetBranchPolicy", model_rid=staging, compatibility=COMPATIBILITY_MODE_ENFORCE_TRANSITIVE)
        for resource, principal, role in (
            (self.folders[0], self.people["ann"].principals[0], ROLE_OWNER),
            (staging, self.people["bob"].principals[0], ROLE_VIEWER),
            (production, self.people["bob"].principals[0], ROLE_PROMOTER),
            (self.folders[1], self.team, ROLE_EDITOR),
        ):
            self.change("admin", "GrantRole", resource_rid=resource, principal=principal, role=role)

    @rule(data=st.data(), name=who)
    def create_version(self, data: st.DataObject, name: str) -> None:
        self.change(
            name,
            "CreateModelVersion",
            model_rid=self.model(data),
            branch=self.branch(data),
            model_api=data.draw(st.sampled_from(MODEL_APIS), "Model API"),
            conda_requirements=[self.run, *data.draw(st.sampled_from([[], ["numpy"]]), "requirements")],
            source=data.draw(st.sampled_from([None, ModelVersionSource(sdk=SdkSource())]), "source"),
            request_id=self.request_id(data),
        )

    @rule(data=st.data(), name=who)
    def promote(self, data: st.DataObject, name: str) -> None:
        fields = {**self.promotion(data), "preview": True, "request_id": self.request_id(data)}
        self.change(name, "PromoteVersion", **fields)

    @rule(data=st.data(), name=who)
    def check_and_promote(self, data: st.DataObject, name: str) -> None:
        fields = {**self.promotion(data), "preview": True, "request_id": self.request_id(data)}
        self.assert_kept(self.call(name, "CheckPromotion", **fields), self.change(name, "PromoteVersion", **fields))

    @rule(data=st.data(), name=who)
    def promote_many(self, data: st.DataObject, name: str) -> None:
        promotions = [self.promotion(data) for _ in range(data.draw(st.integers(1, 3), "how many"))]
        self.change(name, "BatchPromoteVersions", promotions=promotions, request_id=self.request_id(data))

    @rule(data=st.data(), name=who)
    def roll_back(self, data: st.DataObject, name: str) -> None:
        heads = {(v.model_rid, v.branch): v.version_number for v in self.reference.versions.values()}
        long = [place for place, count in heads.items() if count > 1]
        places = [*long * 5, *heads, (self.model(data), self.branch(data) or "master")]
        model_rid, branch = data.draw(st.sampled_from(places), "branch")
        count = heads.get((model_rid, branch), 0)
        self.change(
            name,
            "RollbackBranch",
            model_rid=model_rid,
            branch=branch,
            to_version_number=data.draw(st.sampled_from([*range(1, count), *range(1, count + 2)]), "number"),
            expected_head_version_rid=self.expected_head(data, model_rid, branch),
            reason=self.reason(data),
            request_id=self.request_id(data),
            override=data.draw(st.sampled_from([None, None, False, True]), "override"),
        )

    @rule(data=st.data(), how=st.sampled_from(["as it was", "with what it left out"]))
    def repeat(self, data: st.DataObject, how: str) -> None:
        if self.repeatable:
            name, rpc, sent = data.draw(st.sampled_from(self.repeatable), "earlier request")
            says_master = how == "with what it left out"
            self.change_by(
                name, rpc, changed(sent, lambda branch: branch or "master", "branch") if says_master else sent
            )

    @rule(data=st.data(), change=st.sampled_from(["person", "branch", "reason"]))
    def use_an_id_again(self, data: st.DataObject, change: str) -> None:
        """Another person sends a request, or the same one asks for something else."""
        if self.repeatable:
            name, rpc, sent = data.draw(st.sampled_from(self.repeatable), "earlier request")
            if change == "person":
                self.change_by(data.draw(who, "person"), rpc, sent)
            else:
                self.change_by(name, rpc, changed(sent, lambda _: "something else", change))

    @rule(data=st.data(), name=who, what=st.sampled_from(["model", "policy", "policy", "grant", "revoke"]))
    def arrange(self, data: st.DataObject, name: str, what: str) -> None:
        match what:
            case "model":
                fields = {
                    "name": data.draw(st.sampled_from(["staging", "hidden", "new", "newer"]), "display name"),
                    "parent_folder_rid": data.draw(st.sampled_from(self.folders), "folder"),
                }
                self.change(name, "CreateModel", **fields, request_id=self.request_id(data))
            case "policy":
                policy = data.draw(st.sampled_from(POLICIES), "policy")
                place = {"model_rid": self.model(data), "branch": self.branch(data)}
                fields = data.draw(
                    st.sampled_from([{"compatibility": policy}] * 2 + [{"promotion_only": on} for on in (False, True)]),
                    "fields",
                )
                revision = data.draw(st.none() | st.integers(0, 2), "expected revision")
                self.change(name, "SetBranchPolicy", **place, **fields, expected_revision=revision)
            case "grant":
                role = data.draw(st.sampled_from(ROLES), "role")
                self.change(name, "GrantRole", **self.grantee(data), role=role)
            case "revoke":
                self.change(name, "RevokeRole", **self.grantee(data))

    @rule(data=st.data(), name=who)
    def read(self, data: st.DataObject, name: str) -> None:
        model_rid, branch, version_rid = self.model(data), self.branch(data), self.version(data)
        self.call(name, "GetModel", model_rid=model_rid)
        self.call(name, "GetBranch", model_rid=model_rid, branch=branch)
        self.call(name, "GetBranchPolicy", model_rid=model_rid, branch=branch)
        self.call(name, "ListModelVersions", model_rid=model_rid, branch=branch, page_size=2)
        self.call(name, "ListGrants", resource_rid=model_rid)
        self.call(name, "GetModelVersion", model_rid=model_rid, model_version_rid=version_rid)
        self.call(name, "GetLineage", model_version_rid=version_rid, page_size=3)
        self.call(name, "ListPromotions", source_model_version_rid=version_rid, branch="master", page_size=1)
        promotions = list(self.reference.promotions.values())
        if promotions:
            promotion = data.draw(st.sampled_from(promotions), "promotion")
            self.call(name, "GetPromotion", promotion_rid=promotion.rid)
            request = {"model_rid": promotion.model_rid, "created_by": promotion.created_by}
            self.call(name, "ListPromotions", **request, page_size=2)

    # What is asserted

    def call(self, name: str, rpc: str, /, **fields: Any) -> Any:
        """Call an RPC that changes nothing, and return what it says, as the reference does."""
        request = request_of(rpc, **fields)
        told = outcome(self.users[name], rpc, request)
        expected = self.reference.carry_out(self.people[name], request, check=rpc == "CheckPromotion")
        assert told == expected, f"{rpc} by {name}: {request}"
        return told

    def change(self, name: str, rpc: str, /, **fields: Any) -> Any:
        """Call an RPC that changes something, and return what it says, as the reference does."""
        return self.change_by(name, rpc, request_of(rpc, **fields))

    def change_by(self, name: str, rpc: str, request: Any) -> Any:
        told = outcome(self.users[name], rpc, request)
        if "request_id" in request.DESCRIPTOR.fields_by_name and request.request_id:
            # What was carried out is the more interesting to repeat.
            self.repeatable += [(name, rpc, request)] * (1 if isinstance(told, Refusal) else 4)
        rids = rids_of(told)
        records = {rid: self.records_of(rid) for rid in rids if rid not in self.reference.models and is_promotion(told)}
        made = [Made(rid, records[rid].rid if rid in records else "") for rid in rids]
        expected = self.reference.carry_out(self.people[name], request, made)
        assert self.without_unborn(told) == self.without_unborn(expected), f"{rpc} by {name}: {request}"
        for rid, record in records.items():
            assert record == self.reference.promotions[rid]
        for each in getattr(request, "promotions", [request]):
            if "model_rid" in each.DESCRIPTOR.fields_by_name:
                self.call("admin", "ListBranches", model_rid=each.model_rid)
        return told

    def without_unborn(self, told: Any) -> Any:
        """The same but for the RID of a head that a batch would have made, had it not failed: nobody can know it."""
        if isinstance(told, Refusal) and told.name == "BranchHeadChanged":
            head = told.parameters["actualHeadVersionRid"]
            if head and head not in self.reference.versions:
                return replace(told, parameters={**told.parameters, "actualHeadVersionRid": "unborn"})
        return told

    def records_of(self, version_rid: str) -> Promotion:
        """The one record of the promotion that made a version."""
        request = request_of("ListPromotions", model_version_rid=version_rid)
        (record,) = outcome(self.users["admin"], "ListPromotions", request).promotions
        return record

    def assert_kept(self, check: Any, promoted: Any) -> None:
        """What CheckPromotion said is what PromoteVersion then did."""
        if isinstance(promoted, Refusal):
            first = check.obstacles[0]
            assert (first.error_name, dict(first.parameters)) == (promoted.name, promoted.parameters)
        elif check.HasField("repeated_version_rid"):
            assert check.repeated_version_rid == promoted.rid
        else:
            record = self.reference.promotions[promoted.rid]
            assert (check.version_number, check.head_version_rid) == (
                record.version_number,
                record.replaced_version_rid,
            )
            assert (check.findings, check.error_count) == (record.findings, record.error_count)
        assert check.would_succeed == isinstance(promoted, ModelVersion)

    def teardown(self) -> None:
        if sys.exc_info()[0] is None and self.reference.models:
            self.assert_everyone_sees_what_there_is()
            self.assert_times_follow_the_order()
            self.assert_nothing_else_is_stored()
            self.assert_it_is_whole()

    def assert_everyone_sees_what_there_is(self) -> None:
        roots = [rid for rid in self.reference.versions if rid not in self.reference.promotions]
        for name in self.people:
            for folder in self.folders:
                self.call(name, "ListModels", parent_folder_rid=folder)
            for version_rid in (*roots[:4], *list(self.reference.promotions)[-2:]):
                self.call(name, "GetLineage", model_version_rid=version_rid)
            if name != "admin":
                # None of other runs are among them, where these people do not exist.
                self.call(name, "ListPromotions", page_size=20)
        for model_rid in self.reference.models:
            self.call("admin", "ListPromotions", model_rid=model_rid)
            self.call("admin", "ListBranches", model_rid=model_rid)
        for model_rid, branch in dict.fromkeys((v.model_rid, v.branch) for v in self.reference.versions.values()):
            self.call("admin", "ListModelVersions", model_rid=model_rid, branch=branch)

    def assert_times_follow_the_order(self) -> None:
        for model_rid in self.reference.models:
            listed = self.users["admin"]("ListPromotions", model_rid=model_rid, page_size=1000).promotions
            times = [promotion.created_time.ToMilliseconds() for promotion in listed]
            assert times == sorted(times, reverse=True)
            for promotion in listed:
                request = {"model_rid": model_rid, "model_version_rid": promotion.model_version_rid}
                assert self.users["admin"]("GetModelVersion", **request).created_time == promotion.created_time

    def assert_it_is_whole(self) -> None:
        with open_inventory(kept_database(self.url)) as inventory:
            assert list(Examination(inventory, None).faults()) == []

    def assert_nothing_else_is_stored(self) -> None:
        stored, reference = row_counts(self.url), self.reference
        assert {name: stored[name] - before for name, before in self.counts_before.items()} == {
            **dict.fromkeys(stored, 0),
            "models": len(reference.models),
            "branches": len({(version.model_rid, version.branch) for version in reference.versions.values()}),
            "versions": len(reference.versions),
            "contents": len({content_of(version) for version in reference.versions.values()}),
            "promotions": len(reference.promotions),
            "verdicts": len(reference.verdicts),
            "branch_policies": len(reference.policies),
            "branch_model_apis": len(reference.model_apis),
            "requests": len(reference.requests),
            "grants": len(reference.grants),
            "grant_changes": len(reference.grant_changes),
            # One for each thing that was changed.
            "events": sum(
                map(len, (reference.models, reference.versions, reference.policies, reference.grant_changes))
            ),
        }
        resources = {*self.folders, *reference.models}
        assert {(*key, " ".join(earlier.results)) for key, earlier in reference.requests.items()} <= {
            (row.caller, row.rpc, row.request_id, row.results) for row in rows(self.url, tables.requests)
        }
        assert reference.grants == {
            (row.resource_rid, row.principal): row.role
            for row in rows(self.url, tables.grants)
            if row.resource_rid in resources
        }
        assert reference.grant_changes == [
            (row.resource_rid, row.principal, row.role, row.changed_by)
            for row in rows(self.url, tables.grant_changes)
            if row.resource_rid in resources
        ]
        policies = rows(self.url, tables.branch_policies)[self.counts_before["branch_policies"] :]
        assert [(row.branch, row.compatibility, row.changed_by) for row in policies] == [
            (policy.branch, policy.compatibility, policy.changed_by) for policy in reference.policies
        ]


@pytest.mark.timeout(TIMEOUT_SECONDS)
def test_any_calls_in_any_order_are_answered_as_the_reference_answers_them(
    migrated_url: str, open_repository: OpenRepository
) -> None:
    # Whole seconds, so that the order of what came to be cannot lean on times.
    repository = open_repository(migrated_url, clock_ms=lambda: int(time.time()) * 1000)
    with serving(repository) as registry:
        run_state_machine_as_test(lambda: RegistryMachine(registry, migrated_url), settings=RUNS)


def outcome(user: User, rpc: str, request: Any) -> Any:
    """What a call says, without times: its answer, all pages of it, or how it fails."""
    try:
        answer = page = user.send(rpc, request.SerializeToString())
        while getattr(page, "next_page_token", ""):
            following = type(request)()
            following.CopyFrom(request)
            following.page_token = page.next_page_token
            page = user.send(rpc, following.SerializeToString())
            answer.MergeFrom(page)
    except grpc.RpcError as error:
        failure = failure_of(error)
        return Refusal(failure.name, failure.parameters, tuple(path for path, _ in failure.violations))
    if "next_page_token" in answer.DESCRIPTOR.fields_by_name:
        answer.ClearField("next_page_token")
    for obstacle in getattr(answer, "obstacles", ()):
        assert obstacle.description
        obstacle.ClearField("description")
    leave_out_times(answer)
    if isinstance(answer, GetLineageResponse):
        number_nodes(answer)
    return answer


def number_nodes(lineage: GetLineageResponse) -> None:
    """Call the nodes by their places, as the reference does, instead of what only the registry knows."""
    places = {node.node_id: str(place) for place, node in enumerate(lineage.nodes)}
    assert len(places) == len(lineage.nodes)
    lineage.traced_node_id = places[lineage.traced_node_id]
    for node in lineage.nodes:
        node.node_id = places[node.node_id]
        if node.HasField("previous_node_id"):
            node.previous_node_id = places[node.previous_node_id]


def changed(request: Any, change: Callable[[str], str], field: str) -> Any:
    """A request with a change in a field of its own, or of each of its entries, where there is such a field."""
    result = type(request)()
    result.CopyFrom(request)
    for each in getattr(result, "promotions", [result]):
        if field in each.DESCRIPTOR.fields_by_name:
            setattr(each, field, change(getattr(each, field)))
    return result


def leave_out_times(message: Message) -> None:
    for field, value in message.ListFields():
        if field.name in {"created_time", "changed_time"}:
            message.ClearField(field.name)
        elif field.type == FieldDescriptor.TYPE_MESSAGE and field.name != "parameters":
            for each in value if field.is_repeated else [value]:
                leave_out_times(each)


def rids_of(told: Any) -> list[str]:
    """The RIDs of the models or versions that a change made, or has made before."""
    if hasattr(told, "promoted"):
        return [each.model_version_rid for each in told.promoted]
    return [told.rid] if hasattr(told, "rid") else []


def is_promotion(told: Any) -> bool:
    return hasattr(told, "promoted") or (isinstance(told, ModelVersion) and told.source.HasField("promoted"))
