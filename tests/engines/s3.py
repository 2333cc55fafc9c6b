"""S3 on this machine: moto's server, a bucket in it, and what tests put and find there.

It looks whether there is an object and then stores one, and holds no lock between. So of two who create the same object
at the same time both may be let in, if rarely; S3 lets in one. Tests with several writers come through `proxy.Proxy`,
which passes those on one by one.
"""

from __future__ import annotations

import http.client
import urllib.parse
import xml.etree.ElementTree
from pathlib import Path
from typing import Optional

from install import python_packages

MOTO = "moto[server]==5.2.5"
REGION = "us-east-1"
# Signatures are not checked, but who comes without any is a stranger, and sees no object.
SIGNED = {
    "Authorization": f"AWS4-HMAC-SHA256 Credential=test/20260101/{REGION}/s3/aws4_request, "
                     "SignedHeaders=host, Signature=none",
}


def install() -> Path:
    """The path of the server."""
    return python_packages(MOTO) / "bin" / "moto_server"


def start(lab, bucket: str = "lake") -> "S3":
    """An S3 with an empty bucket. Everything is in memory, and ends with it."""
    port = lab.free_port()
    process = lab.start("moto", [lab.engine("moto"), "-H", "127.0.0.1", "-p", port])
    lab.wait_for_port(port, process)
    return S3(process, port, bucket)


class S3:
    """Where the server is, how to get in, and its objects."""

    def __init__(self, process, port: int, bucket: str):
        self.process, self.port, self.bucket = process, port, bucket
        self.endpoint = f"http://127.0.0.1:{port}"
        self.url = f"s3://{bucket}"
        self.env = self.env_at(self.endpoint)
        status, _, body = self.request("PUT", "")
        assert status == 200, f"making a bucket: {status} {body!r}"

    def env_at(self, endpoint: str, who: str = "test") -> dict:
        """What a program needs in its environment to come here through an endpoint (of a proxy), under a name."""
        return {
            "AWS_ACCESS_KEY_ID": who, "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL": endpoint,
            # Nor is it to ask the machine for credentials or settings that it may have of its own.
            "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }

    def request(self, method: str, path: str, body: bytes = b"", headers: Optional[dict] = None,
                endpoint: Optional[str] = None) -> tuple:
        """Asks for a path within the bucket, and gives status, headers and body."""
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(endpoint or self.endpoint).netloc, timeout=60)
        try:
            connection.request(method, f"/{self.bucket}{path}", body, {**SIGNED, **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def put(self, key: str, body: bytes, create: bool = False, endpoint: Optional[str] = None) -> int:
        """Stores an object, or, with `create`, only if there is none, and gives the status."""
        return self.request("PUT", at(key), body, {"If-None-Match": "*"} if create else {}, endpoint)[0]

    def get(self, key: str, endpoint: Optional[str] = None) -> Optional[bytes]:
        """The bytes of an object; None if there is none."""
        status, _, body = self.request("GET", at(key), endpoint=endpoint)
        assert status in (200, 404), f"getting {key}: {status} {body!r}"
        return body if status == 200 else None

    def delete(self, key: str) -> None:
        """Removes an object."""
        assert self.request("DELETE", at(key))[0] == 204, f"deleting {key}"

    def keys(self, prefix: str = "", page: int = 1000) -> list:
        """The keys of all objects under a prefix, sorted; so many are asked for at a time."""
        found, more = [], {}
        while more is not None:
            query = urllib.parse.urlencode({"list-type": 2, "prefix": prefix, "max-keys": page, **more})
            status, _, body = self.request("GET", f"/?{query}")
            assert status == 200, f"listing {prefix}: {status} {body!r}"
            answer = xml.etree.ElementTree.fromstring(body)
            found += [key.text for key in answer.findall("{*}Contents/{*}Key")]
            token = answer.findtext("{*}NextContinuationToken")
            more = {"continuation-token": token} if token else None
        return sorted(found)

    def download(self, folder: Path, prefix: str = "") -> Path:
        """Copies objects into a folder, so that it can be read as a lake on this machine."""
        for key in self.keys(prefix):
            file = folder / key
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(self.get(key))
        return folder


def at(key: str) -> str:
    """The path of an object in its bucket."""
    return "/" + urllib.parse.quote(key)
