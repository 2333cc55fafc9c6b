"""ministack: another maker's Athena, S3 and Glue in one server, whose queries DuckDB executes.

It knows neither views, nor registered partitions, nor parameters: so it shows that its Athena and `vitals` understand each
other (start, follow, pages, types, nulls), and nothing of the statements; for these there is Trino.
"""

from __future__ import annotations

import os
import sys

from install import folder_once, run
from s3 import S3

MINISTACK = "ministack==1.5.33"
DUCKDB = "duckdb==1.4.1"


def install():
    """The path of the server."""
    name = f"python-{sys.version_info[0]}.{sys.version_info[1]}/{MINISTACK.replace('==', '-')}"
    with folder_once(name) as (folder, fresh):
        if fresh:
            run([sys.executable, "-m", "venv", folder], "making a Python environment (Debian: python3-venv)")
            pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            run([*pip, "--only-binary", ":all:", MINISTACK, DUCKDB], f"installing {MINISTACK}")
    return folder / "bin" / "ministack"


def start(lab) -> S3:
    """A server with an empty bucket."""
    port = lab.free_port()
    environment = {**os.environ, "BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "S3_DATA_DIR": str(lab.folder / "s3")}
    process = lab.start("ministack", [lab.engine("ministack")], env=environment)
    lab.wait_for_port(port, process)
    return S3(process, port, "lake")
