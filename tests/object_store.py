"""An object store for tests: a server that speaks the protocol of S3, on a loopback port."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import boto3
from moto.server import ThreadedMotoServer

BUCKET = "models"


@contextmanager
def object_store() -> Iterator[dict[str, str]]:
    """Run the server; the environment in which `s3://models` is a bucket of it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        _, port = server.get_host_and_port()
        credentials = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
        address = f"http://127.0.0.1:{port}"
        boto3.client(
            "s3",
            endpoint_url=address,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name="us-east-1",
        ).create_bucket(Bucket=BUCKET)
        yield {**credentials, "AWS_ENDPOINT_URL": address}
    finally:
        server.stop()
