"""The timetable of a pipeline: which stage learns from which batch at which tick."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxlocal import checks


@dataclass(frozen=True)
class Schedule:
    """The timetable of a number of batches through a number of stages; the pipeline is empty before and after.

    Both numbers are 1 or more.

    Example:
      >>> schedule = jl.pipeline.Schedule(batches=4, stages=2)
      >>> schedule.ticks, schedule.utilisation, round(schedule.bubble, 2)
      (5, 0.8, 0.2)
      >>> schedule.steps, schedule.in_flight, schedule.kept
      (4, 2, 1)
      >>> print(schedule)
      tick     0  1  2  3  4
      stage 0  0  1  2  3  .
      stage 1  .  0  1  2  3
    """

    batches: int
    stages: int

    def __post_init__(self) -> None:
        """Refuse numbers of which there is no timetable."""
        checks.positive_int("batches", self.batches)
        checks.positive_int("stages", self.stages)

    @property
    def ticks(self) -> int:
        """The number of ticks until all batches have left."""
        return self.batches + self.stages - 1

    @property
    def utilisation(self) -> float:
        """The fraction of the time in which a stage learns."""
        return self.batches / self.ticks

    @property
    def bubble(self) -> float:
        """The fraction of the time in which a stage waits, while the pipeline fills and empties."""
        return 1 - self.utilisation

    @property
    def steps(self) -> int:
        """The number of steps that each stage does: one for each batch."""
        return self.batches

    @property
    def in_flight(self) -> int:
        """The number of batches that are in the pipeline at its busiest tick."""
        return min(self.batches, self.stages)

    @property
    def kept(self) -> int:
        """The number of batches whose message a stage keeps at any time, and whose activations it holds as it learns.

        It is one, however many stages there are. A pipeline of backpropagation keeps the activations of a batch until
        its error comes back.
        """
        return 1

    def table(self) -> np.ndarray:
        """The number of the batch from which each stage learns at each tick, (ticks, stages); -1 where it waits."""
        batch = np.arange(self.ticks)[:, None] - np.arange(self.stages)
        return np.where((batch >= 0) & (batch < self.batches), batch, -1)

    def __str__(self) -> str:
        rows = [["tick", *map(str, range(self.ticks))]]
        for stage, column in enumerate(self.table().T):
            rows.append([f"stage {stage}", *("." if batch < 0 else str(batch) for batch in column)])
        names, width = max(len(row[0]) for row in rows), len(str(self.ticks)) + 2
        return "\n".join(row[0].ljust(names) + "".join(cell.rjust(width) for cell in row[1:]) for row in rows)

    def trace(self, path: Path | str, seconds: Sequence[float]) -> Path:
        """Write the timetable as a trace for Perfetto (ui.perfetto.dev), with a line per stage and a bar per batch.

        Args:
          path: the file to write, such as trace.json.
          seconds: the time in which each stage learns from a batch, as `measure` finds it; the slowest stage sets the
            length of a tick.

        Returns:
          The path.
        """
        if len(seconds) != self.stages:
            raise ValueError(
                f"seconds: has {len(seconds)} entries, but there are {self.stages} stages; pass one for each"
            )
        for value in seconds:
            checks.non_negative("seconds", value)
        names = [
            {"name": "thread_name", "ph": "M", "pid": 0, "tid": stage, "args": {"name": f"stage {stage}"}}
            for stage in range(self.stages)
        ]
        bars = [
            {
                "name": f"batch {batch}",
                "ph": "X",
                "pid": 0,
                "tid": stage,
                "ts": 1e6 * tick * max(seconds),  # microseconds
                "dur": 1e6 * seconds[stage],
                "args": {"tick": tick, "batch": int(batch)},
            }
            for tick, row in enumerate(self.table())
            for stage, batch in enumerate(row)
            if batch >= 0
        ]
        path = Path(path)
        path.write_text(json.dumps({"traceEvents": names + bars, "displayTimeUnit": "ms"}), encoding="utf-8")
        return path
