"""A bucket of an S3 server."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import boto3

from tests.helpers.runs import wait_until

BIN = Path(sys.executable).parent
KEYS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "not-so-secret", "AWS_DEFAULT_REGION": "us-east-1"}


class Bucket:
    """A bucket of moto's S3 server."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with (folder / "moto.log").open("wb") as log:
            self.process = subprocess.Popen([BIN / "moto_server", "-p", str(port)], stdout=log, stderr=log)
        wait_until(lambda: listens(port), what="moto's server")
        self.client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port}",
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
        )
        self.client.create_bucket(Bucket="team")
        self.uri = f"s3://team/studies?scheme=http&endpoint_override=127.0.0.1%3A{port}&region=us-east-1"

    def keys(self) -> list[str]:
        found = self.client.list_objects_v2(Bucket="team").get("Contents", [])
        return [item["Key"] for item in found if not item["Key"].endswith("/")]

    def checkpoints(self) -> dict[str, list[int]]:
        """By identity the steps of its checkpoints."""
        steps: dict[str, list[int]] = {}
        for key in self.keys():
            if key.endswith(".ckpt"):
                *_, identity, name = key.split("/")
                steps.setdefault(identity, []).append(int(name.removesuffix(".ckpt")))
        return steps


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
