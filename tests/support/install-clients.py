#!/usr/bin/env python3
"""Installs the real clients that tests/real needs: Envoy and Python's gRPC.

Usage: install-clients.py [DIRECTORY]      (default: target/clients)

Makes a virtual environment in DIRECTORY/venv from requirements.txt and prints
its path. Does nothing when that was done before. Two that run at once do not
disturb each other: the second waits. Only python3 with venv is needed; pip
fetches the packages from the index it is configured for.
"""

import fcntl
import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements.txt"


def default_directory():
    target = os.environ.get("CARGO_TARGET_DIR") or HERE.parent.parent / "target"
    return pathlib.Path(target) / "clients"


def run(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        lines = [line for line in done.stdout.strip().splitlines() if line.strip()]
        sys.exit(f"{' '.join(map(str, command[:4]))} ...: {lines[-1] if lines else 'no output'}")


def install(directory):
    directory.mkdir(parents=True, exist_ok=True)
    venv, stamp = directory / "venv", directory / "installed.txt"
    wanted = REQUIREMENTS.read_text() + sys.version
    with open(directory / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (stamp.exists() and stamp.read_text() == wanted):
            stamp.unlink(missing_ok=True)
            shutil.rmtree(venv, ignore_errors=True)
            run(sys.executable, "-m", "venv", str(venv))
            run(str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", "--requirement", str(REQUIREMENTS))
            stamp.write_text(wanted)
    return venv


if __name__ == "__main__":
    print(install(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default_directory()))
