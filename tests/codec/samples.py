"""The seed as data, every message class, and how a refusal reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import settings

from modelregistry.v1 import access_service_pb2, model_service_pb2
from modelregistry.v1.model_api_pb2 import (
    ModelApi,
)
from modelregistry.v1.model_pb2 import (
    Branch,
    Model,
    ModelVersion,
)
from server.codec.json_form import from_json, loads
from server.core.errors import InvalidArgument

# The example response of the seed, as it stands there
SEED = """
{
"backingRepositories": [
"ri.stemma.main.repository.a1b2c3d4-e5f6-7890-abcd-ef1234567890"
],
"condaRequirements": [
"numpy==1.24.0",
"pandas==2.0.0"
],
"linkedExperiment": "ri.models.main.experiment.abc123",
"modelApi": {
"inputs": [
{
"name": "input_df",
"required": true,
"type": "tabular",
"columns": [
{
"name": "feature_1",
"required": true,
"dataType": {
"type": "double"
}
},
{
"name": "feature_2",
"required": true,
"dataType": {
"type": "integer"
}
}
],
"format": "PANDAS"
}
],
"outputs": [
{
"name": "output_df",
"required": true,
"type": "tabular",
"columns": [
{
"name": "prediction",
"required": true,
"dataType": {
"type": "double"
}
}
],
"format": "SPARK"
}
]
},
"createdTime": "2003-05-06T12:34:56.789Z",
"rid": "ri.models.main.model-version.adf94926-c3ac-41ea-beb2-4946699d08ee"
}
"""

# What a version has beside the seed's keys: plain scalars, which are present even if nothing set them
NOT_IN_SEED = {"modelRid": "", "branch": "", "versionNumber": 0, "createdBy": "", "rootModelVersionRid": ""}


def _classes() -> list[type[Message]]:
    """Every request and response of the services, and the messages that stand in files and in columns."""
    services = [
        *model_service_pb2.DESCRIPTOR.services_by_name.values(),
        *access_service_pb2.DESCRIPTOR.services_by_name.values(),
    ]
    # Streams have no route, and their bytes no JSON form.
    methods = [
        method
        for service in services
        for method in service.methods
        if not (method.client_streaming or method.server_streaming)
    ]
    descriptors = {part.full_name: part for method in methods for part in (method.input_type, method.output_type)}
    for message in (Model, ModelVersion, Branch, ModelApi):
        descriptors[message.DESCRIPTOR.full_name] = message.DESCRIPTOR
    return [GetMessageClass(descriptors[name]) for name in sorted(descriptors)]


each_class = pytest.mark.parametrize("message_class", _classes(), ids=lambda each: each.DESCRIPTOR.name)


def thorough(max_examples: int) -> Callable[[Any], Any]:
    """More, or fewer, examples than usual."""
    return settings(max_examples=max_examples)


def refusal(value: object, message_class: type[Message] = ModelVersion) -> dict[str, str]:
    """What is wrong with a value, by path."""
    with pytest.raises(InvalidArgument) as caught:
        from_json(value, message_class)
    violations = caught.value.violations
    assert violations
    return dict(violations)


def text_refusal(text: str | bytes) -> str:
    with pytest.raises(InvalidArgument) as caught:
        loads(text)
    ((path, sentence),) = caught.value.violations
    assert path == ""
    return sentence
