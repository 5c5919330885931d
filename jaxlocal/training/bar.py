"""Shows how far a training is: by a bar in a terminal, and elsewhere by one line for each epoch."""

import sys
from typing import Self

import numpy as np

from jaxlocal.text import measurement
from jaxlocal.training.state import Progress


class Bar:
    """Shows the progress of `fit`: the sum of the local losses, and after each epoch the validation accuracy.

    Within an epoch the sum is that of the last steps, and after it the mean over the epoch, as in its history.

    In a terminal that is a bar; elsewhere, as in a log file, each epoch is a line on stderr.

    Args:
      first: the step that training resumes from.
      total: the number of steps of the whole run.
      epochs: the number of its epochs.
    """

    def __init__(self, first: int, total: int, epochs: int):
        from tqdm import tqdm  # imported here because only those who want to see the progress need it

        self._shown: dict[str, str] = {}
        self._epochs = epochs
        # disable=None: there is no bar if stderr is not a terminal.
        self._bar = tqdm(total=total, initial=first, unit="batch", disable=None, dynamic_ncols=True, leave=False)

    def watch(self, progress: Progress) -> None:
        """Move the bar."""
        self._shown["local losses"] = f"{progress.loss:.4g}"
        if progress.state:
            row = progress.state.history[-1]
            self._shown["local losses"] = f"{sum(map(np.mean, row['losses'])):.4g}"
            self._shown["validation"] = measurement(row["validation"])
        epoch = -(-progress.step // progress.steps)
        self._bar.set_description(f"epoch {epoch}", refresh=False)
        self._bar.set_postfix(self._shown, refresh=False)
        self._bar.update(progress.step - self._bar.n)
        if progress.state:
            self._bar.refresh()  # tqdm by itself skips updates that follow each other closely
            if self._bar.disable:
                facts = ", ".join(f"{name} {value}" for name, value in self._shown.items())
                print(f"epoch {epoch} of {self._epochs}: {facts}", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
