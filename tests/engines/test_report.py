"""The page of `vitals report`, opened in a real browser from its file, and as `vitals up` serves it."""

import os
import re
import shutil
import tempfile
from pathlib import Path

from lab import check, test

SCRIPT = "report_page.mjs"


@test("browser")
def report(lab):
    """The page of `vitals report` opens in Chromium from the file alone and shows what is in the lake."""
    lake, page = lab.folder / "lake", lab.folder / "report.html"
    lab.vitals("demo", "--devices", 20, "--duration", "2d", "--keep", lake, patience_s=180)
    lab.vitals("report", "--lake", lake, "--out", page)
    look_at(lab, page)


@test("browser")
def served_report(lab):
    """The page that `vitals up` serves opens in Chromium, asks nobody else for anything, and shows what has come."""
    server = lab.up(listen="127.0.0.1:0")
    address = re.compile(r"report on (http://127\.0\.0\.1:\d+/)")
    lab.wait_until(lambda: address.search(server.text()), "`vitals up` says where its report is", alive=server)
    broker = f"127.0.0.1:{server.port}"
    sent = lab.json("simulate", "--devices", 20, "--duration", "2d", "--speed", "max", "--broker", broker)
    outliers = lambda: lab.count(server.lake, "outliers") > 0
    lab.wait_until(outliers, "outliers are found", patience_s=60)
    lab.wait_until_stored(server.lake, sent["readings"])
    look_at(lab, address.search(server.text()).group(1))
    lab.end_up(server)


def look_at(lab, page):
    """Opens a page and checks it; the script says what."""
    here, shots = Path(__file__).resolve().parent, lab.folder / "screenshots"
    check((here / SCRIPT).exists(), f"{SCRIPT} is not beside this file")
    shots.mkdir()
    browser = lab.engine("browser")
    # A module finds packages from where it lies, whatever NODE_PATH says, so it is put beside them for the run.
    beside = Path(tempfile.mkdtemp(prefix="run-", dir=browser["folder"]))
    try:
        for module in here.glob("*.mjs"):
            shutil.copy(module, beside)
        environment = {**os.environ, "VITALS_CHROMIUM": browser["chromium"]}
        done = lab.run([browser["node"], beside / SCRIPT, page, shots], patience_s=240, env=environment)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    print("".join(f"     {line}\n" for line in done.stdout.splitlines()), end="")
