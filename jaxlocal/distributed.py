"""Several hosts: one program in several processes, each with its own devices, which `jax.devices()` lists together.

Start the same command on each host, and tell each process its number in the environment:

    JAXLOCAL_COORDINATOR=host0:12345 JAXLOCAL_PROCESSES=4 JAXLOCAL_PROCESS=2 python train.py

On one machine `python -m jaxlocal.distributed --processes 4 train.py` starts all processes with CPU devices, and stops
all of them if one fails. The program begins with `initialize()`. All processes must run the same computations in the
same order.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread, Timer
from types import TracebackType
from typing import IO, Any, NoReturn

import jax

from jaxlocal import flags

PREFIX = "JAXLOCAL_"  # the names of the environment variables begin with it
PATIENCE = 30  # seconds without a sign of life after which a process counts as lost
SOON = 10  # seconds of waiting after which a process says what it waits for
LAUNCHER = f"{PREFIX}LAUNCHER"  # the environment variable with the number of the launching process
GRACE = 15  # seconds that a process has to save and end after SIGTERM, before it is killed
LOST = 75  # the exit code of a process that has lost another one
AFTER = 2  # seconds within which the process that was lost is seen to end
SUSPENDING = "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU"

End = tuple[int | None, int]  # the number and the exit code of a process; (None, signal) if the launcher is stopped


def initialize(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    patience: int | None = None,
) -> None:
    """Join the other processes of this program, if there are any. Call it before anything else that uses JAX.

    An argument that is not given is read from the environment: JAXLOCAL_COORDINATOR, JAXLOCAL_PROCESSES,
    JAXLOCAL_PROCESS and JAXLOCAL_PATIENCE. If none of the first three is set, this is a single process, and nothing
    happens.

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
    arguments = {"coordinator": coordinator, "processes": processes, "process": process}
    found = {name: _find(name, value) for name, value in arguments.items()}
    missing = [label for label, text in found.values() if text is None]
    if len(missing) == len(found):
        return
    if missing:
        names = " ".join(f"{PREFIX}{name.upper()}" for name in found)
        raise ValueError(f"{missing[0]} is not set: set all of {names}, or none of them for a single process")
    address = _address(*found["coordinator"])
    count, number = _whole(*found["processes"], least=1), _whole(*found["process"], least=0)
    label, text = _find("patience", patience)
    seconds = PATIENCE if text is None else _whole(label, text, least=1)
    if number >= count:
        raise ValueError(
            f"{found['process'][0]}={number}: {count} processes are numbered 0 to {count - 1}; take one of these"
        )
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # it would make a process survive SIGTERM
    if number == 0:
        _check_port(found["coordinator"][0], address)
    _end_with_launcher()
    with _said_while_waiting(f"process {number} of {count} waits for the others, which meet at {address}"):
        jax.distributed.initialize(
            address, count, number, heartbeat_timeout_seconds=seconds, shutdown_timeout_seconds=seconds
        )
    _leave_at_once_on_errors(number, count)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run a program in several processes on this machine, each with its own CPU devices.

    The output of process 0 is shown as it is. Of the other processes only the errors are shown, after their numbers.
    """
    parser = flags.Parser("python -m jaxlocal.distributed", description=main.__doc__)
    show = "(default: %(default)s)"
    parser.add_argument("--processes", type=flags.whole, default=2, metavar="N", help=f"number of processes {show}")
    parser.add_argument(
        "--devices", type=flags.whole, default=1, metavar="N", help=f"CPU devices of each process {show}"
    )
    parser.add_argument("-m", dest="module", action="store_true", help="the program is a module, as in python -m")
    parser.add_argument("program", help="a script, or after -m a module")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="arguments of the program")
    args = parser.parse_args(argv)
    if args.module and not _is_module(args.program):
        parser.error(f"argument -m: there is no module {args.program!r}; check the name, or leave out -m for a script")
    if not args.module and not Path(args.program).is_file():
        parser.error(f"argument program: {args.program!r} is not a file; name a script, or a module after -m")
    command = [sys.executable, *["-m"] * args.module, args.program, *args.arguments]
    number, code = _launch(command, args.processes, args.devices)
    if number is None:
        parser.exit(128 + code, f"{parser.prog}: all processes are stopped by {signal.Signals(code).name}\n")
    if code:
        message = f"process {number} of {args.processes} {_how(code)}; all processes are stopped"
        parser.exit(128 - code if code < 0 else code, f"{parser.prog}: {message}\n")
    parser.exit(0)


# Joining the other processes.


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


@contextmanager
def _said_while_waiting(words: str) -> Iterator[None]:
    """Print the words if it takes long."""
    timer = Timer(SOON, print, [f"jaxlocal.distributed: {words}"], {"file": sys.stderr, "flush": True})
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


def _leave_at_once_on_errors(number: int, count: int) -> None:
    """Let an error end the process at once: an orderly end would wait for processes that wait for this one."""
    report = sys.excepthook

    def leave(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> NoReturn:
        lost = any(word in str(error) for word in ("Gloo", "NCCL", "coordination"))  # such errors have many types
        if lost:  # where this process was then tells nothing about the cause
            reason = str(error).strip().partition("\n")[0]
            why = f"it has lost another process, whose own output says why ({reason})"
        else:
            report(kind, error, trace)
            why = "the error above"
        print(f"jaxlocal.distributed: process {number} of {count} stops: {why}", file=sys.stderr)
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


def _launch(command: Sequence[str], processes: int, devices: int) -> End:
    """Run the processes until all have ended or one has failed; the end of that one, or else of the last."""
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
    _stop(workers)
    for printer in printers:
        printer.join(timeout=1)  # a program that a process has started may still hold its stderr open
    return end


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


def _stop(workers: Sequence[subprocess.Popen[str]]) -> None:
    """Ask the processes that are still running to stop, and kill those that have not stopped in time."""
    deadline = time.monotonic() + GRACE
    for how in (signal.SIGTERM, signal.SIGKILL):
        for worker in workers:
            if worker.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(worker.pid, how)
                    os.killpg(worker.pid, signal.SIGCONT)  # a suspended process would not hear it
        for worker in workers:
            with suppress(subprocess.TimeoutExpired):
                worker.wait(max(deadline - time.monotonic(), 0) if how == signal.SIGTERM else None)


if __name__ == "__main__":
    main()
