"""Finds and runs the program, for the jobs beside this file: on the driver, and in tasks on other machines."""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import tempfile

from pyspark import SparkFiles

NAME = "vitals"


class Program:
    """The program on this machine: at a path, or where `--files` has put it."""

    def __init__(self, path=None):
        self.given = path

    def run(self, command, *arguments, say=None):
        """Runs a command, and gives what it says on standard output; on standard error it speaks for itself."""
        with self.executable() as path:
            done = subprocess.run(
                [path, command, *arguments], input=say, stdout=subprocess.PIPE, text=True, preexec_fn=end_with_parent,
                stdin=subprocess.DEVNULL if say is None else None,
            )
        if done.returncode:
            raise RuntimeError(f"`vitals {command}` ended with {done.returncode}; what it said is in the messages above")
        return done.stdout

    @contextlib.contextmanager
    def executable(self):
        # Some clusters put files where a process begins.
        places = [self.given] if self.given else [SparkFiles.get(NAME), os.path.abspath(NAME)]
        path = next(filter(os.path.exists, places), None)
        if path is None:
            raise RuntimeError(f"there is no program `{places[0]}`: say `--files …/{NAME}` to spark-submit, or `--vitals PATH`")
        if os.access(path, os.X_OK):
            yield path
            return
        # Files may come without the right to be executed, into a folder where nothing can be changed.
        with tempfile.TemporaryDirectory(prefix="vitals-") as folder:
            own = os.path.join(folder, NAME)
            shutil.copyfile(path, own)
            os.chmod(own, 0o700)
            yield own


def end_with_parent():
    """Has the program end when the task that runs it does, however that ends."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
