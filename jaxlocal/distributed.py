"""Several hosts: one program in several processes, each with its own devices, which `jax.devices()` lists together.

Start the same command on each host. SLURM, Open MPI and Kubernetes tell each process its number; elsewhere the
environment does:

    JAXLOCAL_COORDINATOR=host0:12345 JAXLOCAL_PROCESSES=4 JAXLOCAL_PROCESS=2 jaxlocal train --rule dfa

On one machine `python -m jaxlocal.distributed --processes 4 -m jaxlocal train` starts all processes with CPU devices,
and stops all of them if one fails. A program of your own begins with `initialize()`. All processes must run the same
computations in the same order.
"""

import argparse
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread, Timer
from types import TracebackType
from typing import IO, Any, NamedTuple, NoReturn

from jaxlocal import flags

PREFIX = "JAXLOCAL_"  # the names of the environment variables begin with it
PATIENCE = 30  # seconds without a sign of life after which a process counts as lost
ARRIVAL = 300  # seconds within which all must have come
MOST = 1024  # processes, and devices of each, that the launcher starts
SOON = 10  # seconds of waiting after which a process says what it waits for
LAUNCHER = f"{PREFIX}LAUNCHER"  # the environment variable with the number of the launching process
GRACE = 15  # seconds that a process has to save and end after SIGTERM, before it is killed
LOST = 75  # the exit code of a process that has lost another one
AFTER = 2  # seconds within which the process that was lost is seen to end
SUSPENDING = "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU"
CLUSTERS = {  # the variables in which a cluster tells each process about itself
    "SLURM": {"processes": "SLURM_STEP_NUM_TASKS", "process": "SLURM_PROCID"},
    "Open MPI": {"processes": "OMPI_COMM_WORLD_SIZE", "process": "OMPI_COMM_WORLD_RANK"},
    "Kubernetes": {"process": "JOB_COMPLETION_INDEX"},
}

End = tuple[int | None, int]  # the number and the exit code of a process; (None, signal) if the launcher is stopped


class Place(NamedTuple):
    """Which of several processes this one is."""

    process: int  # its number, from 0
    processes: int | None  # how many there are; None if JAX has to find out
    coordinator: str | None  # the address of process 0; None if JAX has to find it
    cluster: str | None  # which says some of these

    def __str__(self) -> str:
        return f"process {self.process}" + (f" of {self.processes}" if self.processes else "")

    @property
    def hint(self) -> str:
        """The end of a sentence about processes that a cluster has started, perhaps against the user's will."""
        return f"; {PREFIX}PROCESSES=1 makes each a single process" if self.cluster else ""


def initialize(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    patience: int | None = None,
) -> None:
    """Join the other processes of this program, if there are any. Call it before anything else that uses JAX.

    A second call does nothing.

    An argument that is not given is read from the environment: JAXLOCAL_COORDINATOR, JAXLOCAL_PROCESSES,
    JAXLOCAL_PROCESS and JAXLOCAL_PATIENCE. What these do not say is found, by JAX, in SLURM, Open MPI or Kubernetes. If
    nothing is found, this is a single process, and nothing happens; so it is if JAXLOCAL_PROCESSES is 1 and the others
    are not set.

    Args:
      coordinator: the address of process 0 as "host:port", the same for all processes.
      processes: the number of processes.
      process: the number of this process, from 0.
      patience: the number of seconds without a sign of life from one process after which the others stop with a
        non-zero exit code; also the number of seconds that a finished process waits for the others. 30 by default.

    Example:
      >>> from jaxlocal import distributed
      >>> distributed.initialize()  # a single process, unless the environment says otherwise
    """
    found = place(coordinator, processes, process)
    if found is None:
        return
    label, text = _find("patience", patience)
    seconds = PATIENCE if text is None else _whole(label, text, least=1)
    import jax  # slow, and a single process may not need it

    if jax.distributed.is_initialized():
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # it would make a process survive SIGTERM
    if found.process == 0 and found.coordinator:
        _check_port(_find("coordinator", coordinator)[0], found.coordinator)
    _end_with_launcher()
    at = f" at {found.coordinator}" if found.coordinator else ""
    with (
        _after(SOON, partial(_say, f"{found} waits for the others{at}{found.hint}")),
        _after(ARRIVAL, partial(_give_up, f"{found} has not met all others{at} within {ARRIVAL} seconds")),
    ):
        _join(found, seconds)
    _leave_at_once_on_errors(found)


def place(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> Place | None:
    """Which of several processes this one is, by arguments and environment as in `initialize`; None if it is alone."""
    arguments = {"coordinator": coordinator, "processes": processes, "process": process}
    given = {name: _find(name, value) for name, value in arguments.items()}
    unknown = [name for name, (_, text) in given.items() if text is None]
    if unknown == ["coordinator", "process"] and given["processes"][1] == "1":
        return None
    cluster, facts = _of_cluster()
    if len(unknown) == len(given) and not cluster:
        return None
    found = given | {name: facts[name] for name in unknown if name in facts}
    missing = [label for label, text in found.values() if text is None]
    if missing and not cluster:
        names = " ".join(f"{PREFIX}{name.upper()}" for name in found)
        raise ValueError(f"{missing[0]} is not set: set all of {names}, or none of them for a single process")
    address = _address(*found["coordinator"]) if found["coordinator"][1] else None
    count = _whole(*found["processes"], least=1) if found["processes"][1] else None
    number = _whole(*found["process"], least=0)
    if count is not None and number >= count:
        raise ValueError(
            f"{found['process'][0]}={number}: {count} processes are numbered 0 to {count - 1}; take one of these"
        )
    return Place(number, count, address, cluster if unknown else None)


def leave() -> None:
    """End the joint work, after which no process misses another. It waits for all of them to come here."""
    import jax

    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run a program in several processes on this machine, each with its own CPU devices.

    The output of process 0 is shown as it is. Of the other processes only the errors are shown, after their numbers.
    """
    parser = flags.Parser("python -m jaxlocal.distributed", description=main.__doc__)
    show = "(default: %(default)s)"
    few = flags.whole_to(MOST)
    parser.add_argument("--processes", type=few, default=2, metavar="N", help=f"number of processes {show}")
    parser.add_argument("--devices", type=few, default=1, metavar="N", help=f"CPU devices of each process {show}")
    parser.add_argument("-m", dest="module", action="store_true", help="the program is a module, as in python -m")
    parser.add_argument("program", help="a script, or after -m a module")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="arguments of the program")
    args = parser.parse_args(argv)
    if args.module and not _is_module(args.program):
        parser.error(f"argument -m: there is no module {args.program!r}; check the name, or leave out -m for a script")
    if not args.module and not Path(args.program).is_file():
        parser.error(f"argument program: {args.program!r} is not a file; name a script, or a module after -m")
    command = [sys.executable, *["-m"] * args.module, args.program, *args.arguments]
    (number, code), codes = _launch(command, args.processes, args.devices)
    if number is None:
        parser.exit(128 + code, f"{parser.prog}: all processes are stopped by {signal.Signals(code).name}\n")
    if set(codes) != {code}:  # or else they have agreed, and process 0 has said why
        message = f"process {number} of {args.processes} {_how(code)}; all processes are stopped"
        parser.exit(128 - code if code < 0 else code, f"{parser.prog}: {message}\n")
    parser.exit(code)


# Joining the other processes.


def _of_cluster() -> tuple[str | None, dict[str, tuple[str, str]]]:
    """The cluster that has started several processes, if one has, and what its variables say about them."""
    for cluster, variables in CLUSTERS.items():
        facts = {name: (variable, os.environ.get(variable, "")) for name, variable in variables.items()}
        alone = "processes" in facts and facts["processes"][1] == "1"
        if not all(text for _, text in facts.values()) or alone:
            continue
        # Under Kubernetes JAX asks a library for the number of processes.
        if cluster != "Kubernetes" or find_spec("kubernetes"):
            return cluster, facts
    return None, {}


def _join(found: Place, seconds: int) -> None:
    """Join the other processes."""
    import jax

    try:
        jax.distributed.initialize(
            found.coordinator,
            found.processes,
            found.process,
            cluster_detection_method=None if found.cluster else "deactivate",
            initialization_timeout=2 * ARRIVAL,  # then JAX would abort this process; it ends before
            heartbeat_timeout_seconds=seconds,
            shutdown_timeout_seconds=seconds,
        )
    except Exception as error:  # JAX, Kubernetes and MPI raise errors of many types
        if not found.cluster or found.coordinator:
            raise
        raise ValueError(
            f"JAX cannot find the other processes of {found.cluster} ({flags.one_line(error)[:200]}); set "
            f"{PREFIX}COORDINATOR, such as host0:12345{found.hint}"
        ) from None


def _find(name: str, value: Any) -> tuple[str, str | None]:
    """The name and the text of an argument, or of its environment variable if the argument is not given."""
    if value is not None:
        return name, str(value)
    variable = f"{PREFIX}{name.upper()}"
    return variable, os.environ.get(variable) or None


def _address(label: str, text: str | None) -> str:
    host, _, port = str(text).rpartition(":")
    if host and port.isdecimal() and 0 < int(port) < 2**16:
        return str(text)
    raise ValueError(f"{label}={text!r}: must be host:port of process 0, such as {label}=host0:12345")


def _check_port(label: str, address: str) -> None:
    """Process 0 must be able to listen at the port; in some versions JAX crashes if it is in use."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a program that has just ended does no harm
        try:
            probe.bind(("", int(address.rpartition(":")[2])))
        except OSError as error:
            raise ValueError(
                f"{label}={address}: process 0 cannot listen there ({error.strerror}); take another port"
            ) from None


def _whole(label: str, text: str | None, least: int) -> int:
    if text is not None and text.isdecimal() and int(text) >= least:
        return int(text)
    raise ValueError(f"{label}={text!r}: must be a whole number from {least}")


def _say(words: str) -> None:
    print(f"jaxlocal.distributed: {words}", file=sys.stderr, flush=True)


def _give_up(words: str) -> None:
    """End this process, wherever it is."""
    _say(f"{words}; start all of them, and let them reach process 0")
    os._exit(1)


@contextmanager
def _after(seconds: float, do: Callable[[], None]) -> Iterator[None]:
    """Do something if what is inside takes longer than this."""
    timer = Timer(seconds, do)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end_with_launcher() -> None:
    """End this process when the launcher that has started it is gone, as after SIGKILL."""
    launcher = os.environ.get(LAUNCHER)
    if launcher is None:
        return

    def watch() -> None:
        while os.getppid() == int(launcher):
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)  # a run saves itself
        time.sleep(GRACE)
        os._exit(128 + signal.SIGKILL)

    Thread(target=watch, daemon=True).start()


def _leave_at_once_on_errors(found: Place) -> None:
    """Let an error end the process at once: an orderly end would wait for processes that wait for this one."""
    report = sys.excepthook

    def leave(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> NoReturn:
        from jaxlocal.processes import LostError  # JAX is imported already

        words = "Gloo", "NCCL", "coordination"  # in errors of many types
        lost = isinstance(error, LostError) or any(word in str(error) for word in words)
        if lost:  # where this process was then tells nothing about the cause
            reason = str(error).strip().partition("\n")[0]
            why = f"it has lost another process, whose own output says why ({reason})"
        else:
            report(kind, error, trace)
            why = "the error above"
        _say(f"{found} stops: {why}")
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(LOST if lost else 1)

    sys.excepthook = leave


# Starting processes on this machine.


def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _how(code: int) -> str:
    """How a process with this exit code ended."""
    if code > 0:
        return f"ended with code {code}"
    name = signal.Signals(-code).name
    return f"is suspended by {name}, and the others wait for it" if name in SUSPENDING else f"was killed by {name}"


def _launch(command: Sequence[str], processes: int, devices: int) -> tuple[End, list[int]]:
    """Run the processes until all have ended or one has failed: the end of that one or else of the last, and all codes.

    If the launcher is asked to stop, the processes have as long as it takes, until it is asked again.
    """
    ends: SimpleQueue[End] = SimpleQueue()
    for how in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(how, lambda received, _: ends.put((None, received)))
    address = f"127.0.0.1:{_free_port()}"
    shared = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}",
        "JAX_COORDINATOR_BIND_ADDRESS": address,  # other machines cannot connect
        "PYTHONUNBUFFERED": "1",  # the output of a process that is killed is not lost
        f"{PREFIX}COORDINATOR": address,
        f"{PREFIX}PROCESSES": str(processes),
        LAUNCHER: str(os.getpid()),
    }
    workers = [_start(command, number, shared) for number in range(processes)]
    printers = []
    for number, worker in enumerate(workers):
        Thread(target=_await, args=(number, worker, ends), daemon=True).start()
        if worker.stderr:
            printers.append(Thread(target=_show, args=(number, worker.stderr), daemon=True))
            printers[-1].start()
    Thread(target=_await_suspension, args=(workers, ends), daemon=True).start()
    end = _first_failure(ends, processes)
    if end[1] > 0 and end[0] is not None:
        _wait(workers, ends, AFTER)
    _stop(workers, ends, GRACE if end[0] is not None else math.inf)
    for printer in printers:
        printer.join(timeout=1)  # a program that a process has started may still hold its stderr open
    return end, [worker.wait() for worker in workers]


def _start(command: Sequence[str], number: int, shared: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start one process. It has its own session, so that Ctrl-C reaches this process alone, which stops the others."""
    return subprocess.Popen(
        command,
        env={**os.environ, **shared, f"{PREFIX}PROCESS": str(number)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL if number else None,
        stderr=subprocess.PIPE if number else None,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _first_failure(ends: SimpleQueue[End], processes: int) -> End:
    """The first process that failed by itself, and not because it had lost another one; or else the last to end."""
    end: End = 0, 0
    for _ in range(processes):
        try:
            end = ends.get(timeout=AFTER if end[1] else None)
        except Empty:  # the process that was lost is not one of ours, or does not end
            break
        if end[0] is None or end[1] not in (0, LOST):
            break
    return end


def _await(number: int, worker: subprocess.Popen[str], ends: SimpleQueue[End]) -> None:
    ends.put((number, worker.wait()))


def _await_suspension(workers: Sequence[subprocess.Popen[str]], ends: SimpleQueue[End]) -> None:
    """Report a process that stays suspended, before the others miss it: they could not say who is missing."""
    patience = os.environ.get(f"{PREFIX}PATIENCE", "")
    seconds = (int(patience) if patience.isdecimal() else PATIENCE) / 4
    before: list[int] = []
    while hasattr(os, "waitid"):  # not in every macOS
        now = [_suspended(worker) for worker in workers]
        for number, (code, earlier) in enumerate(zip(now, before, strict=False)):
            if code and code == earlier:
                ends.put((number, -code))
        before = now
        time.sleep(seconds)


def _suspended(worker: subprocess.Popen[str]) -> int:
    """The signal that has suspended a process, or 0."""
    with suppress(ChildProcessError):  # it has ended
        found = os.waitid(os.P_PID, worker.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
        return found.si_status if found else 0
    return 0


def _show(number: int, lines: IO[str]) -> None:
    for line in lines:
        print(f"[{number}] {line}", end="", file=sys.stderr, flush=True)


def _stop(workers: Sequence[subprocess.Popen[str]], ends: SimpleQueue[End], seconds: float) -> None:
    """Ask the processes that are still running to stop, and kill those that have not stopped in time."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        for worker in workers:
            if worker.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(worker.pid, how)
                    os.killpg(worker.pid, signal.SIGCONT)  # a suspended process would not hear it
        _wait(workers, ends, seconds if how == signal.SIGTERM else math.inf)


def _wait(workers: Sequence[subprocess.Popen[str]], ends: SimpleQueue[End], seconds: float) -> None:
    """Wait until all processes have ended, for this long at most, or until the launcher is asked to stop."""
    deadline = time.monotonic() + seconds
    while any(worker.poll() is None for worker in workers) and time.monotonic() < deadline:
        with suppress(Empty):
            if ends.get(timeout=0.05)[0] is None:
                return


if __name__ == "__main__":
    main()
