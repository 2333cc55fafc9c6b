"""A registry of container images on this machine: Debian's docker-registry, and what tests find in it."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
from pathlib import Path
from typing import Optional

from install import from_debian

USER, PASSWORD = "ward", "open sesame"
# Of that password, by bcrypt, which is the only kind that the registry takes.
USERS = f"{USER}:$2b$04$nN4BSlNPIMpHkRS13suX2OW/zNEKtUZrFJ4NrCJT60LmFiqGup5gu\n"

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def install() -> str:
    """The path of the server."""
    return from_debian("docker-registry", "docker-registry")


def start(lab, users: bool = False) -> "Registry":
    """An empty registry; with `users` it wants a name and a password."""
    port = lab.free_port()
    folder = lab.folder / f"registry-{port}"
    folder.mkdir()
    (folder / "users").write_text(USERS)
    auth = f"auth: {{htpasswd: {{realm: test, path: {folder}/users}}}}\n" if users else ""
    config = folder / "config.yml"
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {folder}/blobs}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}', secret: of-a-test}}\n" + auth
    )
    process = lab.start("docker-registry", [lab.engine("registry"), "serve", config])
    lab.wait_for_port(port, process)
    return Registry(process, port, users)


class Registry:
    """Where the registry is, and what is in it, by its protocol."""

    def __init__(self, process, port: int, users: bool):
        self.process, self.users = process, users
        self.host = f"127.0.0.1:{port}"

    def request(self, method: str, path: str, headers: Optional[dict] = None) -> tuple:
        """Asks for a path, and gives status, headers and body."""
        headers = dict(headers or {})
        if self.users:
            headers["Authorization"] = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        connection = http.client.HTTPConnection(self.host, timeout=60)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def tags(self, repository: str) -> list:
        """The tags of a repository."""
        status, _, body = self.request("GET", f"/v2/{repository}/tags/list")
        return sorted(json.loads(body)["tags"] or []) if status == 200 else []

    def pull(self, repository: str, version: str) -> "Pulled":
        """An image by tag or digest. Whether all of it is what its digests say is checked."""
        status, headers, body = self.request("GET", f"/v2/{repository}/manifests/{version}", {"Accept": MANIFEST})
        assert status == 200, f"pulling {repository}:{version}: {status} {body!r}"
        manifest = json.loads(body)
        blobs = {}
        for blob in [manifest["config"], *manifest["layers"]]:
            status, _, content = self.request("GET", f"/v2/{repository}/blobs/{blob['digest']}")
            assert status == 200 and digest(content) == blob["digest"] and len(content) == blob["size"], blob
            blobs[blob["digest"]] = content
        return Pulled(headers["Content-Type"], digest(body), manifest, blobs)

    def uploads(self) -> int:
        """How many uploads have been opened so far."""
        return self.process.text().count('"POST /v2/')


class Pulled:
    """An image that was pulled."""

    def __init__(self, form: str, name: str, manifest: dict, blobs: dict):
        self.form, self.digest, self.manifest, self.blobs = form, name, manifest, blobs
        self.config = json.loads(blobs[manifest["config"]["digest"]])
        self.layers = [blobs[layer["digest"]] for layer in manifest["layers"]]


def digest(content: bytes) -> str:
    """The name of content in registries."""
    return "sha256:" + hashlib.sha256(content).hexdigest()
