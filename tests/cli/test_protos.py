"""What `modelregistry protos` writes is all that a compiler of protos, or grpcurl, needs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool

from server.rpc.server import HEALTH, SERVICES
from tests.processes import environment, run

ROOT = Path(__file__).parents[2]
OURS = sorted(path.relative_to(ROOT / "protos").as_posix() for path in (ROOT / "protos").rglob("*.proto"))


def test_the_files_are_those_of_the_repository_and_can_be_compiled_with_nothing_else(tmp_path: Path) -> None:
    out, stubs = tmp_path / "protos", tmp_path / "stubs"
    stubs.mkdir()
    written = run("protos", "--out", out)
    assert (written.returncode, written.stderr) == (0, f"the .proto files are in {out}\n"), written
    for name in (*OURS, "modelregistry/v1/service_config.json"):
        assert (out / name).read_text() == (ROOT / "protos" / name).read_text()
    # Without grpc_tools' own wrapper, which adds a folder with more protos than those of the compiler.
    compile_all = "import sys; from grpc_tools import protoc; sys.exit(protoc.main(sys.argv))"
    compiled = subprocess.run(
        [sys.executable, "-c", compile_all, f"-I{out}", f"-I{well_known()}", f"--python_out={stubs}", *OURS],
        capture_output=True,
        text=True,
        check=False,
    )
    assert compiled.returncode == 0, compiled.stderr
    assert len(list(stubs.rglob("*_pb2.py"))) == len(OURS)


@pytest.mark.parametrize(
    ("language", "named"),
    [
        ("cpp", "namespace modelregistry"),
        ("csharp", "namespace ModelRegistry.V1"),
        ("java", "package io.modelregistry.v1;"),
        ("php", r"namespace ModelRegistry\V1;"),
        ("ruby", "module ModelRegistry"),
    ],
)
def test_compilers_name_the_stubs_as_is_usual_in_each_language(language: str, named: str, tmp_path: Path) -> None:
    assert run("protos", "--out", tmp_path / "protos").returncode == 0
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    line = ["protoc", f"-I{tmp_path / 'protos'}", f"--{language}_out={stubs}", *OURS]
    subprocess.run(line, check=True, env=environment())
    written = [file.read_text() for file in stubs.rglob("*") if file.is_file()]
    assert len(written) >= len(OURS)
    assert any(named in text for text in written)


def well_known() -> Path:
    """Where the compiler has the protos that are a part of it, google/protobuf."""
    import grpc_tools

    return Path(grpc_tools.__file__).parent / "_proto"


def test_the_descriptor_set_is_complete_in_order_and_has_the_comments(tmp_path: Path) -> None:
    file = tmp_path / "api.binpb"
    assert run("protos", "--descriptor-set", file).returncode == 0
    described = FileDescriptorSet.FromString(file.read_bytes())
    pool = DescriptorPool()
    for each in described.file:
        pool.AddSerializedFile(each.SerializeToString())  # fails if what it imports is not there yet
    # The details of errors, which are in messages of any kind.
    assert pool.FindMessageTypeByName("google.rpc.ErrorInfo").fields
    for service in SERVICES:
        assert pool.FindServiceByName(service).methods
    ours = [each for each in described.file if each.name in OURS]
    assert [each.name for each in ours if not each.source_code_info.location] == []
    assert sorted(each.name for each in ours) == OURS


def test_every_field_of_the_descriptor_set_has_its_json_name_as_from_protoc(tmp_path: Path) -> None:
    written, compiled = tmp_path / "api.binpb", tmp_path / "protoc.binpb"
    assert run("protos", "--out", tmp_path / "protos", "--descriptor-set", written).returncode == 0
    line = ["protoc", f"-I{tmp_path / 'protos'}", "--include_imports", f"--descriptor_set_out={compiled}", *OURS]
    subprocess.run(line, check=True, env=environment())
    # Another release of the compiler may bring more fields of google/protobuf.
    known = {name: of_json for name, of_json in json_names(compiled) if not name.startswith("google.protobuf.")}
    named = dict(json_names(written))
    assert {name: named[name] for name in known} == known
    assert [name for name, of_json in named.items() if not of_json] == []


def json_names(file: Path) -> Iterator[tuple[str, str]]:
    """Each field of a descriptor set, by its full name, with its name in JSON."""

    def of(message: DescriptorProto, package: str) -> Iterator[tuple[str, str]]:
        name = f"{package}.{message.name}"
        for field in message.field:
            yield f"{name}.{field.name}", field.json_name
        for nested in message.nested_type:
            yield from of(nested, name)

    for each in FileDescriptorSet.FromString(file.read_bytes()).file:
        for message in each.message_type:
            yield from of(message, each.package)


def test_a_compiler_needs_nothing_but_the_descriptor_set(tmp_path: Path) -> None:
    run("protos", "--descriptor-set", tmp_path / "api.binpb")
    line = ["protoc", "--descriptor_set_in=api.binpb", "--python_out=.", *OURS]
    subprocess.run(line, check=True, env=environment(), cwd=tmp_path)
    assert len(list(tmp_path.rglob("*_pb2.py"))) == len(OURS)


def test_grpcurl_knows_the_services_by_it(tmp_path: Path) -> None:
    file = tmp_path / "api.binpb"
    run("protos", "--descriptor-set", file)
    listed = subprocess.run(
        ["grpcurl", "-protoset", file, "list"], capture_output=True, text=True, check=False, env=environment()
    )
    assert listed.stdout.split() == sorted((*SERVICES, HEALTH)), listed


def test_nothing_is_written_without_being_told_where() -> None:
    refused = run("protos")
    assert refused.returncode != 0
    assert "--descriptor-set" in refused.stderr


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused = run("protos", "--out", tmp_path / "file")
    assert refused.returncode != 0
    assert str(tmp_path / "file") in refused.stderr
    assert "Traceback" not in refused.stderr
