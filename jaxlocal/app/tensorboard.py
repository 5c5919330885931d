"""The logs of TensorBoard, where they are asked for."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from jaxlocal.app.settings import ConfigError
from jaxlocal.training import Metrics, Progress

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter


def log(board: "SummaryWriter", progress: Progress) -> None:
    """After an epoch, log its row."""
    if progress.state:
        row = progress.state.history[-1]
        for name, value in _scalars(row):
            board.add_scalar(name, value, row["step"])


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
