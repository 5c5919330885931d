"""One run in many processes: exact, stopped by the death of any one, and resumed as if nothing had happened."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from queue import SimpleQueue

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from helpers import ROOT, slow

from experiments.demos import multihost
from jaxlocal import distributed

pytestmark = pytest.mark.xdist_group("distributed")

ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("JAXLOCAL_")},
    "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("--xla_force_host_platform_device_count=8", ""),
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": str(ROOT),
}

# The pipeline over all devices against the rule itself, which process 0 computes on its own.
EXACT = """
import jax, jax.numpy as jnp, numpy as np, optax
import jaxlocal as jl
from jaxlocal import distributed

distributed.initialize()
count = len(jax.devices())
rule = jl.rules.al(jl.models.mlp((5,) * count, classes=3), optax.sgd(0.1))
pipe = jl.pipelined(rule, jl.pipeline.mesh(component=count))
rng = np.random.default_rng(0)
batches = rng.normal(size=(6, 8, 4)).astype(np.float32), np.eye(3, dtype=np.float32)[rng.integers(3, size=(6, 8))]
batch = tuple(leaf[0] for leaf in batches)
key = jax.random.key(0)
params, info = pipe.run(pipe.init(key, batch), batches)
params = pipe.drain(params)

def plain(leaf):
    return np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)

found = jax.tree.map(plain, (params, info))
if jax.process_index() == 0:
    wanted = jax.jit(lambda key: jax.lax.scan(rule.step, rule.init(key, batch), batches))(key)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, plain(b), rtol=1e-6, atol=1e-8), found, wanted)
    print("exact", jax.process_count(), count, len(jax.local_devices()))
"""

# The demo, but process 1 dies in the second epoch: process 0 has saved the first, and cannot finish the second.
DYING = """
import os, signal
import jax
import jaxlocal as jl
from experiments.demos import multihost

drain, calls = jl.pipeline.Pipeline.drain, []

def dying(self, params):
    calls.append(jax.block_until_ready(params))
    if len(calls) == 2 and jax.process_index() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return drain(self, params)

jl.pipeline.Pipeline.drain = dying
multihost.main()
"""

# The demo, but process 1 alone is asked to stop after the second epoch.
STOPPING = """
import os, signal
import jax
from experiments.demos import multihost

say = multihost._say

def stopping(text):
    say(text)
    if text.startswith("epoch 2") and jax.process_index() == 1:
        os.kill(os.getpid(), signal.SIGTERM)

multihost._say = stopping
multihost.main()
"""

# Processes that work together without end, until process 1 gives itself a signal.
TOGETHER = """
import os, sys
import jax, numpy as np
from jax.experimental.multihost_utils import process_allgather
from jaxlocal import distributed

distributed.initialize()
for i in range(10**9):
    process_allgather(np.ones(3))
    if i == 20 and jax.process_index() == 1:
        print("now", flush=True)
        os.kill(os.getpid(), int(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scripts")

    def write(source):
        path = folder / f"{len(list(folder.iterdir()))}.py"
        path.write_text(source)
        return str(path)

    return write


def launch(*arguments):
    command = [sys.executable, "-m", "jaxlocal.distributed", *arguments]
    return subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(("processes", "devices"), [(2, 1), slow(4, 1)])
def test_the_pipeline_is_exact_over_processes(processes, devices, script):
    done = launch("--processes", str(processes), "--devices", str(devices), script(EXACT))
    assert done.returncode == 0, done.stderr
    assert f"exact {processes} {processes * devices} {devices}\n" in done.stdout


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """Of a small run, by the name of its folder."""
    base = tmp_path_factory.mktemp("runs")
    return lambda name: ["--epochs=3", "--batch-size=128", "--hidden", "8", "8", "--out", str(base / name)]


@pytest.fixture(scope="module")
def killed(flags, script):
    """How a run ended of which one process dies in the second epoch."""
    return launch("--processes", "2", script(DYING), *flags("interrupted"))


@pytest.mark.slow
def test_a_process_that_dies_stops_the_others(killed):
    assert killed.returncode == 128 + signal.SIGKILL
    assert "process 1 of 2 was killed by SIGKILL; all processes are stopped" in killed.stderr.splitlines()[-1]
    assert "epoch 1 of 3" in killed.stdout and "epoch 2 of 3" not in killed.stdout


@pytest.mark.slow
def test_a_resumed_run_ends_as_an_uninterrupted_one(killed, flags, script):
    """It is killed in its second epoch, resumed, stopped after that by a signal to one process, and resumed again."""
    stopped = launch("--processes", "2", script(STOPPING), *flags("interrupted"))
    assert stopped.returncode == 128 + signal.SIGTERM
    assert "resuming after epoch 1" in stopped.stdout and "stopped after step 16" in stopped.stdout
    resumed = launch("--processes", "2", "-m", "experiments.demos.multihost", *flags("interrupted"))
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming after epoch 2" in resumed.stdout and "epoch 2 of 3" not in resumed.stdout
    whole = launch("--processes", "1", "--devices", "2", "-m", "experiments.demos.multihost", *flags("whole"))
    assert whole.returncode == 0, whole.stderr
    ends = [re.findall(r"^epoch 3.* loss [\d.]+|^test .*", run.stdout, re.MULTILINE) for run in (whole, resumed)]
    assert ends[0] == ends[1] and len(ends[0]) == 2
    first, second = (final(flags(name)[-1]) for name in ("interrupted", "whole"))
    assert first.keys() == second.keys() and len(first) > 20
    for name, array in first.items():
        assert array.tobytes() == second[name].tobytes(), name


def final(folder):
    """The leaves of a run's last checkpoint, by name."""
    with ocp.StandardCheckpointer() as checkpointer:
        leaves = jax.tree.leaves_with_path(checkpointer.restore(f"{folder}/checkpoints/24/params"))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


@pytest.mark.slow
def test_a_run_resumes_with_its_own_settings_only(tmp_path, capsys):
    def run(*flags):
        multihost.main(["--out", str(tmp_path / "run"), "--component", "2", "--data", "4", *flags])
        return capsys.readouterr().out

    first = run("--hidden", "8", "8", "--epochs", "1")
    assert "resuming" not in first and "epoch 1 of 1" in first
    second = run("--hidden", "8", "8", "--epochs", "2")
    assert "resuming after epoch 1" in second and "epoch 2 of 2" in second
    for other in (["--hidden", "9", "9"], ["--hidden", "8", "8", "--rate", "0.1"]):
        with pytest.raises(SystemExit) as stop:
            run(*other)
        assert stop.value.code == 2
        assert "holds a run with other settings" in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["/proc/nowhere", "/dev/null/run"])
def test_a_folder_that_cannot_be_is_one_line(folder, capsys):
    with pytest.raises(SystemExit) as stop:
        multihost.main(["--out", folder, "--component", "2", "--data", "4", "--hidden", "8", "8"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert f"--out='{folder}': cannot be written to" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("sent", "code", "message"),
    [
        # The connection to a process that dies is cut at once; one that hangs, or cannot be reached, is missed in time.
        (
            signal.SIGKILL,
            distributed.LOST,
            "process 0 of 2 stops: it has lost another process, whose own output says why",
        ),
        (signal.SIGSTOP, -signal.SIGABRT, "another task died"),
    ],
)
def test_without_a_launcher_the_others_stop_by_themselves(sent, code, message, script):
    address = f"127.0.0.1:{distributed._free_port()}"
    shared = {"JAXLOCAL_COORDINATOR": address, "JAXLOCAL_PROCESSES": "2", "JAXLOCAL_PATIENCE": "4"}
    command = [sys.executable, script(TOGETHER), str(int(sent))]
    first, second = (
        subprocess.Popen(
            command,
            env={**ENVIRONMENT, **shared, "JAXLOCAL_PROCESS": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    )
    try:
        assert "now\n" in iter(second.stdout.readline, "")
        _, complaint = first.communicate(timeout=120)
        assert first.returncode == code and message in complaint
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()


@pytest.mark.parametrize(
    ("sent", "how"),
    [
        (signal.SIGKILL, "was killed by SIGKILL"),
        slow(signal.SIGSTOP, "is suspended by SIGSTOP, and the others wait for it"),
    ],
)
def test_the_launcher_names_the_process_that_the_others_have_lost(sent, how, script, monkeypatch):
    monkeypatch.setitem(ENVIRONMENT, "JAXLOCAL_PATIENCE", "8")
    done = launch("--processes", "2", script(TOGETHER), str(int(sent)))
    assert done.returncode == 128 + sent
    assert done.stderr.splitlines()[-1].endswith(f"process 1 of 2 {how}; all processes are stopped")
    assert "Traceback" not in done.stderr and "stack trace" not in done.stderr


@pytest.mark.parametrize(
    ("ends", "first"),
    [
        ([(0, 0), (1, 0)], (1, 0)),
        ([(0, distributed.LOST), (1, 3)], (1, 3)),  # process 0 has lost process 1, but is seen to end before it
        ([(0, distributed.LOST)], (0, distributed.LOST)),
        ([(0, 0), (1, -signal.SIGSEGV)], (1, -signal.SIGSEGV)),
        ([(0, distributed.LOST), (None, signal.SIGINT)], (None, signal.SIGINT)),
    ],
)
def test_the_first_failure(ends, first, monkeypatch):
    monkeypatch.setattr(distributed, "AFTER", 0.01)
    queue = SimpleQueue()
    for end in ends:
        queue.put(end)
    assert distributed._first_failure(queue, 2) == first


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_launcher_stops_all(sent, code, script, tmp_path):
    waiting = script("import os, sys, time; print(os.getpid(), file=open(sys.argv[1], 'w')); time.sleep(60)")
    pid = tmp_path / "pid"
    command = [sys.executable, "-m", "jaxlocal.distributed", "--processes", "1", waiting, str(pid)]
    launcher = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    while not (pid.exists() and pid.read_text().endswith("\n")):
        assert launcher.poll() is None
        time.sleep(0.05)
    launcher.send_signal(sent)
    _, complaint = launcher.communicate(timeout=30)
    assert launcher.returncode == code and complaint.endswith(f"all processes are stopped by {sent.name}\n")
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_of_the_other_processes_errors_alone_are_shown(script):
    talking = script(
        "import os, sys; n = os.environ['JAXLOCAL_PROCESS']; print('out', n); print('err', n, file=sys.stderr)\n"
        "sys.exit(3 if n == '1' and 'fail' in sys.argv else 0)"
    )
    done = launch("--processes", "2", talking)
    assert (done.returncode, done.stdout, sorted(done.stderr.splitlines())) == (0, "out 0\n", ["[1] err 1", "err 0"])
    failed = launch("--processes", "2", talking, "fail")
    assert failed.returncode == 3 and "process 1 of 2 ended with code 3" in failed.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--processes", "0", "x.py"], "argument --processes: '0' is not a whole number from 1"),
        (["--devices", "many", "x.py"], "argument --devices: 'many' is not a whole number from 1"),
        (["nothing.py"], "argument program: 'nothing.py' is not a file; name a script, or a module after -m"),
        (["-m", "no.such.module"], "argument -m: there is no module 'no.such.module'"),
        ([], "the following arguments are required: program"),
    ],
)
def test_bad_flags_of_the_launcher(arguments, complaint, capsys):
    with pytest.raises(SystemExit) as stop:
        distributed.main(arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith("python -m jaxlocal.distributed: ") and complaint in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--epochs", "0"], "argument --epochs: '0' is not a whole number from 1"),
        (["--out", __file__], "argument --out: '" + __file__ + "' is a file; name a folder"),
        (["--rate", "nan"], "argument --rate: 'nan' is not a number above 0"),
        (["--hidden", "8", "few"], "argument --hidden: 'few' is not a whole number from 1"),
        (["--component", "2"], "--component=2 and --data=1: their product must be 8"),
        (["--component", "9"], "mesh(component=9, data=1): needs 9 devices"),
        (["--hidden", "8", "8"], "axis 'component' has 8 devices, but the rule has only 2 components"),
        (["--batch-size", "3", "--data", "2"], "--batch-size=3: must be a multiple of --data=2"),
        (["--batch-size", "2000", "--data", "2"], "--batch-size=2000: must be at most 1097"),
    ],
)
def test_bad_flags_of_the_experiment(arguments, complaint, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        multihost.main(["--out", str(tmp_path / "run"), *arguments])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and not list(tmp_path.iterdir())
    assert error.startswith("python -m experiments.demos.multihost: ") and complaint in error and error.count("\n") == 1


GOOD = {"COORDINATOR": "host0:12345", "PROCESSES": "4", "PROCESS": "2"}


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"COORDINATOR": "host0"}, "JAXLOCAL_COORDINATOR='host0': must be host:port of process 0"),
        ({"COORDINATOR": "host0:0"}, "JAXLOCAL_COORDINATOR='host0:0': must be host:port"),
        ({"PROCESSES": "0"}, "JAXLOCAL_PROCESSES='0': must be a whole number from 1"),
        ({"PROCESS": "-1"}, "JAXLOCAL_PROCESS='-1': must be a whole number from 0"),
        ({"PROCESS": "4"}, "JAXLOCAL_PROCESS=4: 4 processes are numbered 0 to 3; take one of these"),
        ({"PROCESS": ""}, "JAXLOCAL_PROCESS is not set: set all of JAXLOCAL_COORDINATOR JAXLOCAL_PROCESSES"),
        ({"PATIENCE": "soon"}, "JAXLOCAL_PATIENCE='soon': must be a whole number from 1"),
    ],
)
def test_a_bad_environment(changed, complaint, monkeypatch):
    for name, value in {**GOOD, **changed}.items():
        monkeypatch.setenv(f"JAXLOCAL_{name}", value)
    with pytest.raises(ValueError, match=re.escape(complaint)):
        distributed.initialize()


@pytest.mark.parametrize(("patience", "seconds"), [(None, distributed.PATIENCE), (4, 4)])
def test_a_lost_process_is_missed_after_the_patience(patience, seconds, monkeypatch):
    """As far as JAX is asked for it."""
    asked = {}
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **options: asked.update(options))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    distributed.initialize("host0:12345", 4, 2, patience)
    assert asked == {"heartbeat_timeout_seconds": seconds, "shutdown_timeout_seconds": seconds}


def test_arguments_come_before_the_environment(monkeypatch):
    for name, value in GOOD.items():
        monkeypatch.setenv(f"JAXLOCAL_{name}", value)
    with pytest.raises(ValueError, match=r"^process=7: 4 processes are numbered 0 to 3"):
        distributed.initialize(process=7)


def test_a_port_in_use_is_one_sentence(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        environment = {
            **ENVIRONMENT,
            "JAXLOCAL_COORDINATOR": f"127.0.0.1:{taken.getsockname()[1]}",
            "JAXLOCAL_PROCESSES": "1",
            "JAXLOCAL_PROCESS": "0",
        }
        command = [sys.executable, "-c", "from jaxlocal import distributed; distributed.initialize()"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "process 0 cannot listen there (Address already in use); take another port" in done.stderr.splitlines()[-1]


def test_a_process_that_waits_says_for_whom(monkeypatch, capsys):
    monkeypatch.setattr(distributed, "SOON", 0.01)
    with distributed._said_while_waiting("process 1 of 2 waits"):
        time.sleep(0.2)
    with distributed._said_while_waiting("nobody waits"):
        pass
    time.sleep(0.1)
    assert capsys.readouterr().err == "jaxlocal.distributed: process 1 of 2 waits\n"


def is_alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_a_killed_launcher_leaves_no_process(script, tmp_path):
    path = script(
        "import os, sys, time; from pathlib import Path; from jaxlocal import distributed; distributed.initialize();"
        "Path(sys.argv[1], str(os.getpid())).touch(); time.sleep(120)"
    )
    command = [sys.executable, "-m", "jaxlocal.distributed", path, str(tmp_path / "processes")]
    (tmp_path / "processes").mkdir()
    launcher = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    for _ in range(600):
        if len(workers := [int(path.name) for path in (tmp_path / "processes").iterdir()]) == 2:
            break
        time.sleep(0.1)
    launcher.kill()
    launcher.wait()
    for _ in range(300):
        if not any(map(is_alive, workers)):
            break
        time.sleep(0.1)
    assert len(workers) == 2 and not any(map(is_alive, workers))
