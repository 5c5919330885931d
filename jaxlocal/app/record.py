"""What a run shows while it trains: a progress bar or a line an epoch and, if asked for, the logs of TensorBoard."""

import sys
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from tqdm import tqdm

from jaxlocal.app.settings import ConfigError
from jaxlocal.app.text import number
from jaxlocal.training import Metrics, Progress

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter


class Record:
    """Shows the progress of `fit`, whose `watch` is the method `watch`.

    In a terminal that is a bar; elsewhere, as in a log file, each epoch is a line on stderr.

    Args:
      first: the step that training resumes from.
      total: the number of steps of the whole run.
      epochs: the number of its epochs.
      board: the writer of TensorBoard's logs, if they are wanted.
    """

    def __init__(self, first: int, total: int, epochs: int, board: "SummaryWriter | None" = None):
        self._shown: dict[str, str] = {}
        self._epochs = epochs
        self._board = board
        # disable=None: there is no bar if stderr is not a terminal.
        self._bar = tqdm(total=total, initial=first, unit="batch", disable=None, dynamic_ncols=True, leave=False)

    def watch(self, progress: Progress) -> None:
        """Move the bar and, after an epoch, log its row."""
        self._shown["loss"] = f"{progress.loss:.4g}"
        if progress.state:
            row = progress.state.history[-1]
            self._shown["validation"] = number(row["validation"])
            if self._board:
                for name, value in _scalars(row):
                    self._board.add_scalar(name, value, row["step"])
        self._bar.set_description(f"epoch {-(-progress.step // progress.steps)}", refresh=False)
        self._bar.set_postfix(self._shown, refresh=False)
        self._bar.update(progress.step - self._bar.n)
        if progress.state:
            self._bar.refresh()  # tqdm by itself skips updates that follow each other closely
            if self._bar.disable:
                facts = ", ".join(f"{name} {value}" for name, value in self._shown.items())
                print(f"epoch {row['epoch']} of {self._epochs}: {facts}", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if self._board:
            self._board.close()


def tensorboard_writer() -> "type[SummaryWriter]":
    """The class that writes TensorBoard's logs.

    Raises:
      ConfigError: tensorboardX is not installed.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise ConfigError("--tensorboard: needs tensorboardX; install it with pip install tensorboardX") from None
    return SummaryWriter


def _scalars(row: Metrics) -> Iterator[tuple[str, float]]:
    """The curves of TensorBoard; with several seeds, their means."""
    for part in ("train", "validation"):
        for name, value in row[part].items():
            yield f"{part}/{name}", float(np.mean(value))
    for component, terms in enumerate(row["terms"]):
        for name, value in terms.items():
            yield f"component {component}/{name}", float(np.mean(value))
