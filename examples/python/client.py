"""Promotes a model version from one model into another, as examples/README.md says."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
from google.protobuf.json_format import MessageToJson
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from modelregistry.v1 import model_api_pb2 as api
from modelregistry.v1 import model_service_pb2 as messages
from modelregistry.v1.model_pb2 import Model, ModelVersion
from modelregistry.v1.model_service_pb2_grpc import ModelServiceStub

CALL_SECONDS = 20


def main() -> None:
    with connect() as channel:
        service = ModelServiceStub(channel)
        folder = f"ri.compass.main.folder.{uuid.uuid4()}"
        staging, production = (create_model(service, name, folder) for name in ("staging", "production"))
        tell(f"created {staging.rid} and {production.rid}")

        version = register(service, staging)
        tell(f"registered {version.rid}")

        # The id makes the call safe to repeat: the service config does so when the answer is lost, and so may anybody.
        request = messages.PromoteVersionRequest(
            model_rid=production.rid,
            source_model_version_rid=version.rid,
            preview=True,
            request_id=str(uuid.uuid4()),
        )
        tell(f"promoted {service.PromoteVersion(request, timeout=CALL_SECONDS).rid}")
        promoted = service.PromoteVersion(request, timeout=CALL_SECONDS)
        tell(f"repeated {promoted.rid}")

        wanted = messages.GetModelVersionRequest(model_rid=production.rid, model_version_rid=promoted.rid)
        print(MessageToJson(service.GetModelVersion(wanted, timeout=CALL_SECONDS), ensure_ascii=False))

        missing = messages.GetModelRequest(model_rid=f"ri.models.main.model.{uuid.uuid4()}")
        try:
            service.GetModel(missing, timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            tell(f"failed with {described(error)}")

        # A deadline that has passed already, so that it is certainly missed.
        try:
            service.GetModel(messages.GetModelRequest(model_rid=staging.rid), timeout=-1)
        except grpc.RpcError as error:
            tell(f"failed with {error.code().name}")

        pages = list(pages_of_models(service, folder))
        tell(f"listed {sum(map(len, pages))} models in {len(pages)} pages")


def connect() -> grpc.Channel:
    """Open a channel with TLS, the token, and the service config that comes with the protos."""
    credentials = grpc.composite_channel_credentials(
        grpc.ssl_channel_credentials(Path(os.environ["MODELREGISTRY_CA_CERT"]).read_bytes()),
        grpc.access_token_call_credentials(os.environ["MODELREGISTRY_TOKEN"]),
    )
    config = Path(__file__).with_name("protos") / "modelregistry/v1/service_config.json"
    options = [("grpc.service_config", config.read_text()), ("grpc.keepalive_time_ms", 30_000)]
    return grpc.secure_channel(os.environ["MODELREGISTRY_TARGET"], credentials, options)


def create_model(service: ModelServiceStub, name: str, folder: str) -> Model:
    request = messages.CreateModelRequest(name=name, parent_folder_rid=folder, request_id=str(uuid.uuid4()))
    return service.CreateModel(request, timeout=CALL_SECONDS)


def register(service: ModelServiceStub, model: Model) -> ModelVersion:
    request = messages.CreateModelVersionRequest(
        model_rid=model.rid,
        model_api=wide_model_api(),
        conda_requirements=["numpy==2.1.0", "scikit-learn==1.7.2"],
        backing_repositories=["ri.stemma.main.repository.churn"],
        linked_experiment="ri.models.main.experiment.churn",
        request_id=str(uuid.uuid4()),
    )
    return service.CreateModelVersion(request, timeout=CALL_SECONDS)


def pages_of_models(service: ModelServiceStub, folder: str) -> Iterator[list[Model]]:
    request = messages.ListModelsRequest(parent_folder_rid=folder, page_size=1)
    while True:
        page = service.ListModels(request, timeout=CALL_SECONDS)
        yield list(page.models)
        if not page.HasField("next_page_token"):
            return
        request.page_token = page.next_page_token


def described(error: grpc.RpcError) -> str:
    """Name, parameters and instance id of an error: what its `google.rpc.Status` says in its ErrorInfo."""
    status = rpc_status.from_call(error)
    info = ErrorInfo()
    if status is None or not any(detail.Unpack(info) for detail in status.details):
        return error.code().name
    told = dict(info.metadata)
    name, instance = told.pop("errorName"), told.pop("errorInstanceId")
    return f"{name}, {', '.join(f'{key}={value}' for key, value in told.items())}, instance {instance}"


def wide_model_api() -> api.ModelApi:
    names = ["id", "größe", "città", "年齢", "возраст", "العمر", "🦉", "e\u0301"]
    point = api.UnsupportedType(unsupported_type="org.example.Point", params={"srid": "4326", "axes": "纬度, 经度"})
    string, double = api.DataType(string=api.StringType()), api.DataType(double=api.DoubleType())
    doubles = api.DataType(array=api.ArrayType(item_type=double))
    types = [
        api.DataType(any=api.AnyType()),
        api.DataType(array=api.ArrayType(item_type=string)),
        api.DataType(boolean=api.BooleanType()),
        api.DataType(date=api.DateType()),
        double,
        api.DataType(float=api.FloatType()),
        api.DataType(integer=api.IntegerType()),
        api.DataType(long=api.LongType()),
        api.DataType(map=api.MapType(key_type=string, value_type=doubles)),
        string,
        api.DataType(timestamp=api.TimestampType()),
        api.DataType(unsupported=point),
    ]
    columns = [
        api.Column(
            name=f"{names[i % len(names)]} {i}",
            required=[None, True, False][i % 3],
            data_type=types[i % len(types)],
        )
        for i in range(200)
    ]
    measures = api.TabularType(name="Größe 📏", required=True, columns=columns, format=api.TABULAR_FORMAT_SPARK)
    image = api.UnsupportedType(unsupported_type="org.example.Image")
    score = api.Column(name="score", required=False, data_type=double)
    return api.ModelApi(
        inputs=[
            api.ModelApiInput(tabular=measures),
            api.ModelApiInput(parameter=api.ParameterType(name="threshold", data_type=double)),
            api.ModelApiInput(unsupported=image),
        ],
        outputs=[
            api.ModelApiOutput(tabular=api.TabularType(name="scores", columns=[score])),
            api.ModelApiOutput(parameter=api.ParameterType(name="label", required=True, data_type=string)),
        ],
    )


def tell(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
