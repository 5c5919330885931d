"""Signals: Ctrl-C or SIGTERM lets the steps under way finish, so that they can be saved; a second one ends at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from jaxlocal import processes


class Received:
    """The signal that asked the process to stop, or 0."""

    number = 0


@contextmanager
def received_signals() -> Iterator[Received]:
    """Within this context a first SIGINT or SIGTERM is only noted; the second one has its usual effect.

    Python delivers signals to the main thread alone: in any other thread nothing is changed.
    """
    received = Received()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        received.number = number
        for either in before:
            signal.signal(either, signal.SIG_DFL)  # a KeyboardInterrupt would wait for the compiled steps to end, too
        if not processes.writes():  # where one is asked to stop, all are
            return
        # `print` could fail here, because the signal may have come in the middle of another `print`.
        os.write(2, b"\n" * os.isatty(2) + b"stopping after the current steps; a second signal stops at once\n")

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    for number in before:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
