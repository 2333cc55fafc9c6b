"""Trino, the engine family that Athena belongs to, over the tables and views that a Glue catalogue has.

It reads the catalogue and the files through their AWS protocols, from a stand-in (moto), as Athena does: so a view is tried
as it was written to the catalogue. Its catalogue is called as Athena's is, since views name it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

from install import Missing, folder_once, run

VERSION = "476"
LEAST_JAVA = 24
CATALOGUE = "awsdatacatalog"


def install() -> dict:
    """The server's folder, and the Java that it needs."""
    java, maven = find_java(), shutil.which("mvn")
    with folder_once(f"trino-{VERSION}") as (folder, fresh):
        if fresh:
            if not maven:
                raise Missing("mvn is not on PATH")
            name = f"trino-server-{VERSION}"
            artifact = f"io.trino:trino-server:{VERSION}:tar.gz"
            run([maven, "-q", "-B", "dependency:get", "-Dtransitive=false", f"-Dartifact={artifact}"], "having Trino (820 MB)")
            copy = [maven, "-q", "-B", "dependency:copy", f"-Dartifact={artifact}", f"-DoutputDirectory={folder}"]
            run(copy, "copying Trino")
            run(["tar", "-xzf", folder / f"{name}.tar.gz", "-C", folder, "--exclude=*.docs"], "unpacking Trino")
            (folder / f"{name}.tar.gz").unlink()
            (folder / name).rename(folder / "server")
            for plugin in (folder / "server" / "plugin").iterdir():
                if plugin.name != "hive":
                    shutil.rmtree(plugin)
    return {"server": folder / "server", "java": java}


def find_java() -> Path:
    """The home of a Java that is new enough."""
    homes = [os.environ.get("JAVA_HOME"), *sorted(Path("/usr/lib/jvm").glob("*"))]
    on_path = shutil.which("java")
    homes.append(Path(on_path).resolve().parents[1] if on_path else None)
    for home in map(Path, filter(None, homes)):
        java = home / "bin" / "java"
        if not java.exists():
            continue
        said = subprocess.run([java, "-version"], capture_output=True, text=True).stderr
        version = re.search(r'version "(\d+)', said)
        if version and int(version.group(1)) >= LEAST_JAVA:
            return home
    raise Missing(f"Trino {VERSION} needs Java {LEAST_JAVA} or newer, which is not in JAVA_HOME, on PATH or in /usr/lib/jvm")


def start(lab, s3) -> "Trino":
    """A server over the catalogue and the objects of a stand-in."""
    engine, port = lab.engine("trino"), lab.free_port()
    folder = lab.folder / "trino"
    etc = folder / "etc"
    (etc / "catalog").mkdir(parents=True)
    for name in ("lib", "bin", "plugin"):
        (folder / name).symlink_to(engine["server"] / name)
    (etc / "node.properties").write_text(
        f"node.environment=test\nnode.id=t1\nnode.data-dir={folder}/data\nnode.bind-ip=127.0.0.1\n"
    )
    (etc / "jvm.config").write_text(
        "-server\n-Xmx2G\n-XX:+ExitOnOutOfMemoryError\n-Djdk.attach.allowAttachSelf=true\n"
        "--add-modules=jdk.incubator.vector\n-XX:TieredStopAtLevel=1\n"
    )
    (etc / "config.properties").write_text(
        f"coordinator=true\nnode-scheduler.include-coordinator=true\nhttp-server.http.port={port}\n"
        f"node.internal-address=127.0.0.1\ndiscovery.uri=http://127.0.0.1:{port}\ncatalog.management=static\n"
    )
    (etc / "catalog" / f"{CATALOGUE}.properties").write_text(
        "connector.name=hive\n"
        f"hive.metastore=glue\nhive.metastore.glue.region={s3.env['AWS_REGION']}\n"
        f"hive.metastore.glue.endpoint-url={s3.endpoint}\n"
        "hive.metastore.glue.aws-access-key=test\nhive.metastore.glue.aws-secret-key=test\n"
        f"fs.native-s3.enabled=true\ns3.endpoint={s3.endpoint}\ns3.region={s3.env['AWS_REGION']}\n"
        "s3.aws-access-key=test\ns3.aws-secret-key=test\ns3.path-style-access=true\n"
        # As Athena: nested folders are read, and a session's zone is UTC.
        "hive.recursive-directories=true\nhive.parquet.time-zone=UTC\nhive.security=allow-all\n"
    )
    environment = {**os.environ, "JAVA_HOME": str(engine["java"]), "PATH": f"{engine['java']}/bin:{os.environ['PATH']}"}
    process = lab.start("trino", [folder / "bin" / "launcher", "run", "--etc-dir", etc], env=environment, cwd=folder)
    trino = Trino(process, port)
    # It listens before it can answer.
    lab.wait_until(trino.is_up, "Trino answers", patience_s=900, every_s=3, alive=process)
    return trino


class Failed(Exception):
    """A statement failed; the text is Trino's."""


class Trino:
    """A server, and statements on it."""

    def __init__(self, process, port: int):
        self.process, self.port = process, port

    def is_up(self) -> bool:
        try:
            return bool(self.rows("SHOW SCHEMAS"))
        except (OSError, Failed):
            return False

    def _ask(self, url: str, body=None, headers=()) -> dict:
        request = urllib.request.Request(url, body, {"X-Trino-User": "test", **dict(headers)})
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)

    def rows(self, sql: str, schema: str = "default") -> list:
        """The rows of a statement, each a dictionary."""
        columns, rows = self.table(sql, schema)
        names = [column["name"] for column in columns]
        return [dict(zip(names, row)) for row in rows]

    def table(self, sql: str, schema: str) -> tuple:
        """The columns of a statement (`name`, `type`), and its rows."""
        headers = {"X-Trino-Catalog": CATALOGUE, "X-Trino-Schema": schema, "X-Trino-Time-Zone": "UTC"}
        page = self._ask(f"http://127.0.0.1:{self.port}/v1/statement", sql.encode(), headers.items())
        rows, columns = [], []
        while True:
            if "error" in page:
                raise Failed(f"{page['error'].get('errorName')}: {page['error'].get('message')}\n{sql}")
            columns = page.get("columns") or columns
            rows += page.get("data", [])
            if "nextUri" not in page:
                return columns, rows
            if "data" not in page:
                time.sleep(0.02)
            page = self._ask(page["nextUri"])
