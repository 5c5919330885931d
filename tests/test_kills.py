"""A command that is killed again and again, and resumed each time, ends bit for bit as one that was left alone.

The moments are random, with a fixed seed. KILLS=10 kills each command ten times.
"""

import os
import random
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT, same

from jaxlocal.app import runs

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("elsewhere")]

KILLS = int(os.environ.get("KILLS", "1"))
RUN = "--batch-size 8 --epochs 8 --model-args 'hidden=[8,8]'"

# The command, the flag that resumes it, and the file by which it is known to have begun.
COMMANDS = {
    "two seeds": (f"train --rule kp --seeds 2 {RUN}", "--resume", "config.yaml"),
    "pipeline": (f"train --rule al --pipeline --devices 2 {RUN}", "--resume", "config.yaml"),
    "compare": (f"compare bp dfa {RUN}", "--resume", "*/config.yaml"),
    "search": ("search bp dfa --trials 4 --group 1 --epochs 4", "", "*/search.json"),
}


def start(line):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("--xla_force_host_platform_device_count=8", ""),
    }
    del environment["JAX_COMPILATION_CACHE_DIR"]  # the default lies in JAXLOCAL_CACHE: killed while it writes there
    return subprocess.Popen(
        [sys.executable, "-m", "jaxlocal.app.cli", *shlex.split(line)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def has_begun(process, begun):
    """Whether there is something to resume; False if the process has ended."""
    while not any(Path("killed").glob(begun)):
        if process.poll() is not None:
            return False
        time.sleep(0.001)
    return True


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_may_be_killed_at_any_moment(name, run):
    command, resume, begun = COMMANDS[name]
    began = time.monotonic()
    assert run(f"{command} --out whole")[0] == 0
    seconds = time.monotonic() - began  # the moments are drawn from these

    moments = random.Random(name)
    for number in range(KILLS):
        process = start(f"{command} --out killed {resume * bool(number)}")
        assert has_begun(process, begun), process.stderr.read()
        time.sleep(moments.uniform(0, seconds))
        process.kill()
        process.communicate()
    assert run(f"{command} --out killed {resume}")[0] == 0

    results = sorted(path.relative_to("whole") for path in Path("whole").rglob("*.jsonl"))
    assert results
    for path in results:
        assert (Path("killed") / path).read_text() == (Path("whole") / path).read_text()
        if path.name == "metrics.jsonl":
            one, other = (runs.restored(Path(folder) / path.parent, False)[2] for folder in ("killed", "whole"))
            assert one.step == other.step and same(one.params, other.params)
