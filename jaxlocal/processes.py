"""Several processes that train one run together: which of them writes and prints, and how they agree.

All of them must call these functions in the same order. In a single process each of them only calls its `work`.
"""

import pickle
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all, process_allgather

T = TypeVar("T")
OF_ALL = "of all processes"  # the mark of an error
LARGE = 2**30  # bytes


class LostError(RuntimeError):
    """Another process has ended, or cannot be reached."""


def several() -> bool:
    """Whether this process is one of several."""
    return jax.process_count() > 1


def writes() -> bool:
    """Whether this process is the one that writes files and prints."""
    return jax.process_index() == 0


def first(work: Callable[[], T]) -> T:
    """What `work` returns in process 0, which alone calls it; all processes raise the error that it raises there.

    Example:
      >>> from jaxlocal import processes
      >>> processes.first(lambda: 3)
      3
    """
    if not several():
        return work()
    value, error = _sent(_tried(work) if writes() else (None, None), source=0)
    if error is not None:
        raise _of_all(error)
    return value


def together(work: Callable[[], T]) -> T:
    """What `work` returns in this process; if it fails in some processes, all raise the error of the first of these.

    Example:
      >>> from jaxlocal import processes
      >>> processes.together(lambda: 3)
      3
    """
    if not several():
        return work()
    number, count = jax.process_index(), jax.process_count()
    value, error = _tried(work)
    if error is not None and number:
        error.add_note(f"in process {number} of {count}")
    (failed,) = largest(0 if error is None else count - number)
    if failed:
        raise _of_all(_sent(error, source=count - failed))
    return value


def largest(*values: int) -> tuple[int, ...]:
    """Of each value the largest that any process has.

    Example:
      >>> from jaxlocal import processes
      >>> processes.largest(3, 4)
      (3, 4)
    """
    if not several():
        return values
    return tuple(_reached(process_allgather, np.asarray(values, np.int32)).max(0).tolist())


def check_same(find: Callable[[], object], error: Exception) -> None:
    """If `find` does not return the same in all processes, raise this error in all of them."""
    if not several():
        return
    theirs = first(find)

    def check() -> None:
        if find() != theirs:
            raise error

    together(check)


def is_of_all(error: BaseException) -> bool:
    """Whether all processes have this error, so that one of them can say it for all."""
    return OF_ALL in vars(error)


def _of_all(error: BaseException) -> BaseException:
    vars(error)[OF_ALL] = True
    return error


def _tried(work: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """What a function returns, and the error that it raises."""
    try:
        return work(), None
    except (Exception, SystemExit) as error:
        return None, _sendable(error)


def _sendable(error: BaseException) -> BaseException:
    """The error, or one of the same words if other processes cannot make it anew."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        same = RuntimeError(f"{type(error).__name__}: {error}")
        same.__cause__ = error
        return same
    return error


def _sent(value: Any, source: int) -> Any:
    """The value of one process, in all."""
    sends = jax.process_index() == source
    parts = _packed(value) if sends else []
    count = _broadcast(np.int32(len(parts)), sends)
    lengths = [divmod(len(part), LARGE) for part in parts] or [(0, 0)] * int(count)  # none may exceed 32 bits
    lengths = _broadcast(np.array(lengths, np.int32), sends).tolist()
    got = _broadcast(parts or [np.zeros(large * LARGE + rest, np.uint8) for large, rest in lengths], sends)
    body, *buffers = (part.tobytes() for part in got)
    return value if sends else pickle.loads(body, buffers=buffers)


def _packed(value: Any) -> list[np.ndarray]:
    """The value as bytes, followed by those of its arrays: a sum over processes leaves bytes as they are."""
    arrays: list[pickle.PickleBuffer] = []
    body = pickle.dumps(value, protocol=5, buffer_callback=arrays.append)
    parts: list[bytes | memoryview[int]] = [body, *(array.raw() for array in arrays)]
    return [np.frombuffer(part, np.uint8) for part in parts]


def _broadcast(arrays: Any, sends: bool) -> Any:
    return _reached(broadcast_one_to_all, arrays, sends)


def _reached(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns, in which all processes take part."""
    try:
        return function(*arguments)
    except Exception as error:  # of many types
        raise LostError(str(error).strip().partition("\n")[0]) from error
