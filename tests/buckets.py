"""A real S3 server in the test's process, and the URLs of stores on every kind of place that tests can have."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moto.server import ThreadedMotoServer

BUCKET = "bucket"
KINDS = ("memory", "file", "s3")


@contextmanager
def s3_server() -> Iterator[str]:
    """A server with a bucket, which the environment names meanwhile; yields its address."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    variables |= {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "not-a-secret"}
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        import boto3

        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield variables["AWS_ENDPOINT_URL"]
    finally:
        server.stop()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def new_url(kind: str, folder: Path) -> str:
    """Of an empty place; for `s3` inside `s3_server`."""
    name = uuid.uuid4().hex[:12]
    return {"memory": f"memory://{name}", "file": f"file://{folder / name}", "s3": f"s3://{BUCKET}/{name}"}[kind]
