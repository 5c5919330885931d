"""Timings in separate processes that take turns, so that a drift of the machine affects all of them alike.

This module imports neither JAX nor jaxlocal: a process imports no more than what it measures.
"""

import multiprocessing
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, Self, TypeVar

Key = TypeVar("Key", bound=Hashable)
Found = TypeVar("Found")


class Worker:
    """A process that makes an object and then calls its methods, one at a time, when it is asked to.

    It starts at once; the `with` statement waits until the object is made.

    Args:
      make: makes the object in the process, from the arguments. It must be importable there.
      cores: the process runs on these cores only, each of them is one device of JAX, and an operation uses one thread.
        By default it has all cores, and starts without our XLA_FLAGS, as a user's process does.
    """

    def __init__(self, make: Callable[..., Any], *arguments: Any, cores: Sequence[int] | None = None):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        given = theirs, make, arguments, None if cores is None else tuple(cores)
        self._process = context.Process(target=_serve, args=given, daemon=True)
        ours = os.environ.pop("XLA_FLAGS", None) if cores is None else None  # before the process imports anything
        try:
            self._process.start()
        finally:
            if ours is not None:
                os.environ["XLA_FLAGS"] = ours
        theirs.close()  # so that the pipe ends with the process

    def begin(self, method: str = "__call__", *arguments: Any) -> None:
        """Start a call of a method without waiting for it."""
        try:
            self._pipe.send((method, arguments))
        except BrokenPipeError:
            raise self._stopped() from None

    def end(self) -> Any:
        """Wait for the call, and return its result."""
        try:
            return self._pipe.recv()
        except (EOFError, ConnectionResetError):
            raise self._stopped() from None

    def ask(self, method: str = "__call__", *arguments: Any) -> Any:
        """Call a method, and return its result."""
        self.begin(method, *arguments)
        return self.end()

    def __enter__(self) -> Self:
        self.end()  # what it makes may take long, and must not disturb other timings
        return self

    def __exit__(self, *error: object) -> None:
        self._pipe.close()  # the end of the calls is the end of the process
        self._process.join()

    @staticmethod
    def _stopped() -> RuntimeError:
        return RuntimeError("a worker process stopped; its own message is above")


def at_once(workers: Sequence[Worker]) -> list[Any]:
    """What the workers find, all of which are called at the same time."""
    for worker in workers:
        worker.begin()
    return [worker.end() for worker in workers]


def together(workers: Sequence[Worker]) -> float:
    """Seconds for each batch of workers that run at the same time and share the batches."""
    return max(at_once(workers)) / len(workers)


def take_turns(turns: Mapping[Key, Callable[[], Found]], rounds: int, warm_up: int = 0) -> dict[Key, list[Found]]:
    """Call every function once in each round, and return what it finds; the first rounds are left out."""
    found: dict[Key, list[Found]] = {key: [] for key in turns}
    for _ in range(warm_up + rounds):
        for key, turn in turns.items():
            found[key].append(turn())
    return {key: own[warm_up:] for key, own in found.items()}


def available_cores() -> list[int]:
    """The cores that a process may be pinned to; none where the operating system does not pin processes."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def _serve(
    pipe: Connection, make: Callable[..., Any], arguments: tuple[Any, ...], cores: tuple[int, ...] | None
) -> None:
    if cores is not None:
        os.sched_setaffinity(0, cores)
        flags = f" --xla_force_host_platform_device_count={len(cores)} --xla_cpu_multi_thread_eigen=false"
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + flags  # XLA takes the last of repeated flags
        import jax  # not at the top, because some processes must not import it

        jax.config.update("jax_platforms", "cpu")
    made = make(*arguments)
    pipe.send("ready")
    while True:
        try:
            method, given = pipe.recv()
        except EOFError:  # there are no more calls
            return
        pipe.send(getattr(made, method)(*given))
