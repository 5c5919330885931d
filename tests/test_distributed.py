"""One run in many processes: exact, stopped by the death of any one, and resumed as if nothing had happened."""

import os
import pickle
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from queue import SimpleQueue

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from helpers import ROOT, slow

from jaxlocal import distributed, processes
from jaxlocal.app import cli

pytestmark = pytest.mark.xdist_group("distributed")

ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("JAXLOCAL_")},
    "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("--xla_force_host_platform_device_count=8", ""),
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": str(ROOT),
}

# `jaxlocal`, but process 1 dies in the second epoch: process 0 has saved the first, and cannot finish the second.
DYING = """
import os, signal
import jax
import jaxlocal as jl
from jaxlocal.app.cli import command

drain, calls = jl.pipeline.Pipeline.drain, []

def dying(self, params):
    calls.append(jax.block_until_ready(params))
    if len(calls) == 2 and jax.process_index() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return drain(self, params)

jl.pipeline.Pipeline.drain = dying
command()
"""

# `jaxlocal`, but process 1 alone is asked to stop after the second epoch.
STOPPING = """
import os, signal
import jax
from jaxlocal.app.cli import command
from jaxlocal.training import session

write = session.Session._write_row

def stopping(self, state):
    write(self, state)
    if len(state.history) == 2 and jax.process_index() == 1:
        os.kill(os.getpid(), signal.SIGTERM)

session.Session._write_row = stopping
command()
"""

# Mistakes that all processes make, or one of them alone.
MISTAKES = """
import os
import optax
import jaxlocal as jl
from jaxlocal.app import cli

number = os.environ["JAXLOCAL_PROCESS"]
train = ["train", "--out", "run"]
for arguments in (["--epochs", "0"], ["--rule", "dfa", "--pipeline"], ["--devices", "3"], ["--seed", number]):
    print(cli.main(train + arguments))
build = cli.app.runs.build
cli.app.runs.build = {"0": lambda *_: None, "1": build}[number]
print(cli.main([*train, "--data", "nowhere.npz"]))

data = jl.data.digits()
other = data._replace(train=(data.train[0][int(number) :][:64], data.train[1][:64]))
cli.app.runs.build = lambda *known: build(*known)._replace(data=other)
print(cli.main(train))
print(cli.main(["eval", "run"]), os.path.exists("run"))
try:
    jl.training.fit(jl.rules.bp(jl.models.mlp((4,)), optax.sgd(0.1)), other, epochs=1)
except ValueError as error:
    print(error)
"""

# How many examples each of two processes reads in an epoch: where they share each batch, and in a pipeline.
SHARES = """
import numpy as np, optax
import jaxlocal as jl
from jax.experimental.multihost_utils import process_allgather
from jaxlocal import distributed
from jaxlocal.training import feed

distributed.initialize()
stream, read = feed.stream, []
feed.stream = lambda pairs, orders: read.extend(orders) or stream(pairs, orders)
net, tx = jl.models.mlp((4, 4)), optax.sgd(0.1)
shared = jl.data_parallel(jl.rules.bp(net, tx), jl.pipeline.mesh(data=2))
for rule in (shared, jl.pipelined(jl.rules.al(net, tx), jl.pipeline.mesh(component=2))):
    read.clear()
    jl.training.fit(rule, jl.data.digits(), epochs=1)
    print("examples", *process_allgather(np.int32(len(np.unique(np.concatenate(read))))))
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


def launch(*arguments, cwd=ROOT):
    command = [sys.executable, "-m", "jaxlocal.distributed", *arguments]
    return subprocess.run(command, env=ENVIRONMENT, cwd=cwd, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """The arguments of a small run, on a few examples of its own: those of scikit-learn take longer to import."""
    rng, data = np.random.default_rng(0), tmp_path_factory.mktemp("data") / "few.npz"
    np.savez(data, x=rng.random((640, 6), np.float32), y=rng.integers(3, size=640))
    small = ["--data", str(data), "--epochs=3", "--batch-size=64", "--model-args", "hidden=[8,8]"]
    return lambda *arguments: ["-m", "jaxlocal", "train", *small, *arguments]


def leaves(folder):
    """The leaves of a run's last checkpoint, by name."""
    steps = [int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdecimal()]
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(folder / "checkpoints" / str(max(steps)) / "params")
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}


def assert_same_runs(first, second):
    """They have the same metrics and, bit for bit, the same parameters."""
    assert (first / "metrics.jsonl").read_text() == (second / "metrics.jsonl").read_text()
    ours, theirs = leaves(first), leaves(second)
    assert ours.keys() == theirs.keys() and len(ours) > 20
    for name, array in ours.items():
        assert array.tobytes() == theirs[name].tobytes(), name


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags", [["--pipeline", "--split", "2"], ["--rule", "dfa"]], ids=["pipeline", "data-parallel"]
)
def test_the_ordinary_command_in_processes_is_that_of_one(flags, tmp_path, run, command):
    """The processes share each batch. Process 0 writes and prints.

    A pipeline whose stages are in different processes is below, where it is resumed.
    """
    many, one = tmp_path / "many", tmp_path / "one"
    done = launch("--processes", "2", *command(*flags, "--out", str(many)))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"2 devices → {many}") == 1
    assert [line for line in done.stderr.splitlines() if "epoch 3 of 3" in line and "[1]" not in line]
    assert "[1]" not in done.stderr
    assert run(shlex.join(command(*flags, "--devices", "2", "--out", str(one))[2:]))[0] == 0
    assert_same_runs(many, one)


@pytest.mark.slow
def test_a_process_reads_its_share_of_the_examples(script):
    """Where batches are shared; and in a pipeline, whose first stage alone reads."""
    done = launch("--processes", "2", script(SHARES))
    assert done.returncode == 0, done.stderr
    assert re.findall("^examples.*", done.stdout, re.MULTILINE) == ["examples 544 544", "examples 1088 0"]


@pytest.fixture(scope="module")
def killed(tmp_path_factory, script, command):
    """The folder of a run of which one process dies in the second epoch, and how it ended."""
    folder = tmp_path_factory.mktemp("runs") / "interrupted"
    return folder, launch("--processes", "2", script(DYING), *command("--pipeline", "--out", str(folder))[2:])


@pytest.mark.slow
def test_a_process_that_dies_stops_the_others(killed):
    folder, ended = killed
    assert ended.returncode == 128 + signal.SIGKILL
    assert "process 1 of 2 was killed by SIGKILL; all processes are stopped" in ended.stderr.splitlines()[-1]
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1


@pytest.mark.slow
def test_a_resumed_run_ends_as_an_uninterrupted_one(killed, script, tmp_path, run, command):
    """It is killed in its second epoch, resumed, stopped after that by a signal to one process, resumed in one."""
    folder, _ = killed
    resume = ["train", "--resume", "--out", str(folder)]
    stopped = launch("--processes", "2", script(STOPPING), *resume)
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
    assert "resuming after epoch 1" in stopped.stdout
    assert "stopped after step 16; resume with: jaxlocal train --out" in stopped.stderr.splitlines()[-1]
    code, out, _ = run(shlex.join(resume))
    assert code == 0 and "resuming after epoch 2" in out
    assert run(shlex.join(command("--pipeline", "--devices", "2", "--out", str(tmp_path / "whole"))[2:]))[0] == 0
    assert_same_runs(folder, tmp_path / "whole")


def test_a_mistake_is_one_sentence_of_all_processes(script, tmp_path):
    done = launch("--processes", "2", script(MISTAKES), cwd=tmp_path)
    assert (done.returncode, re.findall(r"^\d.*", done.stdout, re.MULTILINE)) == (0, ["2"] * 6 + ["2 False"])
    assert done.stdout.endswith("data: process 0 has other examples; give all processes the same\n")
    lines = [line for line in done.stderr.splitlines() if line.startswith("jaxlocal ")]
    assert lines == [line for line in done.stderr.splitlines() if "jaxlocal " in line]  # process 1 prints nothing
    for line, words in zip(
        lines,
        [
            "--epochs=0: must be at least 1",
            "--pipeline: the components of dfa wait",
            "--devices=3: the 2 processes have 2 devices, which all take part; leave out the flag",
            "--out run --seed 1: process 0 has other arguments; start all by the same command (in process 1 of 2)",
            "--data=nowhere.npz: ",
            "--data=digits: holds other examples for process 0; give all processes the same",
            "jaxlocal eval: 2 processes were started, but it needs one; start a single one",
        ],
        strict=True,
    ):
        assert words in line
    assert lines[4].endswith(" (in process 1 of 2)")


class UnsendableError(Exception):
    """It cannot be made anew from its message alone."""

    def __init__(self, number, words):
        super().__init__(f"{number} {words}")


def test_an_error_that_cannot_be_sent_keeps_its_words():
    found = processes._sendable(ValueError("no"))
    assert isinstance(found, ValueError)
    found = processes._sendable(UnsendableError(3, "mistakes"))
    assert str(pickle.loads(pickle.dumps(found))) == "UnsendableError: 3 mistakes"
    assert isinstance(found.__cause__, UnsendableError)


def test_a_process_says_what_it_alone_has_found(monkeypatch, run):
    """Process 1 is silent where process 0 speaks for all."""
    for name, value in {"COORDINATOR": "127.0.0.1:1", "PROCESSES": "2", "PROCESS": "1", "PATIENCE": "soon"}.items():
        monkeypatch.setenv(f"JAXLOCAL_{name}", value)
    code, out, error = run("train")
    assert (code, out) == (2, "") and error.startswith("jaxlocal train: JAXLOCAL_PATIENCE='soon': must be a whole num")
    assert run("eval runs/one") == (2, "", "")
    monkeypatch.setattr(processes, "several", lambda: True)
    full = OSError(28, "No space left on device", "curves.png")
    monkeypatch.setitem(cli.COMMANDS, "train", lambda argv: (_ for _ in ()).throw(full))
    with pytest.raises(OSError, match="No space left"):  # it ends at once, and the others learn of it
        run("train")
    processes._of_all(full)
    assert run("train") == (1, "", "")


def test_a_process_that_meets_nobody_says_so(script):
    source = """
from jaxlocal import distributed

distributed.ARRIVAL = 1
distributed.initialize("127.0.0.1:1", 2, 1)
"""
    done = subprocess.run([sys.executable, script(source)], env=ENVIRONMENT, capture_output=True, text=True)
    words = "process 1 of 2 has not met all others at 127.0.0.1:1 within 1 seconds; start all of them"
    assert done.returncode == 1 and words in done.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["mpirun --oversubscribe --allow-run-as-root", "srun"])
def test_a_pipeline_under_the_launcher_of_a_cluster(launcher, tmp_path, run, command):
    """Open MPI's and SLURM's own, where they are installed; the tests above imitate them."""
    launcher = [*launcher.split(), "-n", "2"]
    if shutil.which(launcher[0]) is None or subprocess.run([*launcher, "true"], capture_output=True).returncode:
        pytest.skip(f"{launcher[0]} does not start two processes here")
    many = [*launcher, sys.executable, *command("--pipeline", "--out", str(tmp_path / "run"))]
    done = subprocess.run(many, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ", 2 devices" in done.stdout and done.stdout.count("last (epoch 3)") == 1
    assert run(shlex.join(command("--pipeline", "--devices", "2", "--out", str(tmp_path / "other"))[2:]))[0] == 0
    assert_same_runs(tmp_path / "run", tmp_path / "other")


@pytest.mark.parametrize(
    ("sent", "code", "message"),
    [
        # The connection to a process that dies is cut at once; one that hangs, or cannot be reached, is missed in time.
        (
            signal.SIGKILL,
            distributed.LOST,
            "process 0 of 2 stops: it has lost another process, whose own output says why",
        ),
        slow(signal.SIGSTOP, -signal.SIGABRT, "another task died"),
    ],
)
def test_without_a_launcher_the_others_stop_by_themselves(sent, code, message, script):
    """They join by their own variables or, as JAX finds them, by those of SLURM."""
    port = str(distributed._free_port())
    shared = {
        signal.SIGSTOP: {"JAXLOCAL_COORDINATOR": f"127.0.0.1:{port}", "JAXLOCAL_PROCESSES": "2"},
        signal.SIGKILL: {
            "SLURM_JOB_ID": "7",
            "SLURM_STEP_NODELIST": "localhost",
            "JAX_COORDINATOR_PORT": port,
            "SLURM_NTASKS": "2",
            "SLURM_STEP_NUM_TASKS": "2",
        },
    }[sent]
    own = {signal.SIGSTOP: ["JAXLOCAL_PROCESS"], signal.SIGKILL: ["SLURM_PROCID", "SLURM_LOCALID"]}[sent]
    command = [sys.executable, script(TOGETHER), str(int(sent))]
    first, second = (
        subprocess.Popen(
            command,
            env={**ENVIRONMENT, "JAXLOCAL_PATIENCE": "2", **shared, **dict.fromkeys(own, str(number))},
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


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, None),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2"}, (2, 4, None, "SLURM")),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),  # an interactive shell
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, None),  # a batch script, outside srun
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2", "JAXLOCAL_PROCESSES": "1"}, None),
        (
            {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2", "JAXLOCAL_COORDINATOR": "host0:12345"},
            (2, 4, "host0:12345", "SLURM"),
        ),
        ({"OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_RANK": "0"}, (0, 8, None, "Open MPI")),
        ({"JOB_COMPLETION_INDEX": "3"}, (3, None, None, "Kubernetes")),
        (
            {"JOB_COMPLETION_INDEX": "3", **{f"JAXLOCAL_{name}": value for name, value in GOOD.items()}},
            (2, 4, "host0:12345", None),
        ),
    ],
)
def test_a_process_finds_its_place(variables, found, monkeypatch):
    monkeypatch.setattr(distributed, "find_spec", lambda name: name)  # the package of Kubernetes is installed
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert distributed.place() == found


def test_a_cluster_that_jax_does_not_find_is_one_sentence(run, monkeypatch):
    """Open MPI, but without the variable in which it names its own process."""
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    code, _, error = run("train")
    assert code == 2 and error.count("\n") == 1
    assert error.startswith("jaxlocal train: JAX cannot find the other processes of Open MPI (")
    assert "set JAXLOCAL_COORDINATOR, such as host0:12345; JAXLOCAL_PROCESSES=1 makes each" in error


@pytest.mark.parametrize(("patience", "seconds"), [(None, distributed.PATIENCE), (4, 4)])
def test_a_lost_process_is_missed_after_the_patience(patience, seconds, monkeypatch):
    """As far as JAX is asked for it."""
    asked = {}
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **options: asked.update(options))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    distributed.initialize("host0:12345", 4, 2, patience)
    assert asked["heartbeat_timeout_seconds"] == asked["shutdown_timeout_seconds"] == seconds


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


def test_a_process_that_waits_says_for_whom(capsys):
    with distributed._after(0.01, partial(distributed._say, "process 1 of 2 waits")):
        time.sleep(0.2)
    with distributed._after(0.01, partial(distributed._say, "nobody waits")):
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
