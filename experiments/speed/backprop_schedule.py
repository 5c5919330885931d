"""Timetables of pipelined backpropagation: which micro-batch goes forward and which goes backward on each device.

A batch is cut into micro-batches. In a tick a device takes at most one of them forward through its stage and at most
one backward; then all devices exchange their messages. Activations go up in a tick in which any device has new ones,
and errors down. A message waits at the receiver until the next one is sent.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

NOTHING = -1

Work = tuple[bool, int]  # whether it goes forward, and the number of the micro-batch
Order = list[Work]


class Timetable(NamedTuple):
    """The micro-batches that the stages work on, (ticks, stages) each; -1 where there is none."""

    forward: np.ndarray
    backward: np.ndarray

    @property
    def ticks(self) -> int:
        """The number of ticks of a batch."""
        return len(self.forward)

    @property
    def exchanges(self) -> int:
        """How often all devices send activations up, or errors down."""
        ups, downs = (table != NOTHING for table in (self.forward[:, :-1], self.backward[:, 1:]))
        return int(ups.any(axis=1).sum() + downs.any(axis=1).sum())

    @property
    def stages(self) -> int:
        """The number of stages, one for each device."""
        return self.forward.shape[1]

    @property
    def micro(self) -> int:
        """The number of micro-batches of a batch."""
        return int(self.forward.max()) + 1

    @property
    def held(self) -> tuple[int, ...]:
        """The largest number of micro-batches whose activations each stage holds at a time.

        The last stage takes a micro-batch forward before another one backward; all other stages do it after.
        """
        started, ended = (np.cumsum(table != NOTHING, axis=0) for table in (self.forward, self.backward))
        before = np.concatenate([np.zeros((1, self.stages), int), ended[:-1]])
        ended[:, -1] = before[:, -1]
        return tuple(map(int, (started - ended).max(axis=0)))

    def bubble(self, backward: float = 2.0) -> float:
        """The share of the time in which a device waits, if all stages cost the same and transfers nothing.

        Args:
          backward: what the backward pass costs, where the forward pass costs 1. A tick lasts as long as its slowest
            device works.
        """
        seconds = ((self.forward != NOTHING) + backward * (self.backward != NOTHING)).max(axis=1).sum()
        return 1 - self.micro * (1 + backward) / float(seconds)


Schedule = Callable[[int, int], Timetable]  # of the numbers of stages and of micro-batches


def gpipe(stages: int, micro: int) -> Timetable:
    """All micro-batches go forward, then all go backward (Huang et al., 2019)."""
    order: Order = [(True, m) for m in range(micro)] + [(False, m) for m in range(micro)]
    return _as_early_as_possible([order] * stages)


def one_forward_one_backward(stages: int, micro: int) -> Timetable:
    """1F1B: stage i of K takes K - i micro-batches forward at first, then one backward, one forward, and so on.

    No stage holds more than these K - i (Narayanan et al., 2021).
    """
    return _as_early_as_possible([_alternating(stages - stage, micro) for stage in range(stages)])


SCHEDULES: Mapping[str, Schedule] = {"GPipe": gpipe, "1F1B": one_forward_one_backward}


def eager_one_forward_one_backward(stages: int, micro: int) -> Timetable:
    """1F1B in which stage i starts with 2 (K - i - 1) micro-batches, and the last with one.

    With more than two devices, which exchange messages once in a tick, this keeps all of them busy.
    """
    return _as_early_as_possible([_alternating(max(1, 2 * (stages - stage - 1)), micro) for stage in range(stages)])


def _alternating(ahead: int, micro: int) -> Order:
    """Forward until `ahead` micro-batches are held, then backward and forward in turns."""
    ahead = min(ahead, micro)
    order: Order = [(True, m) for m in range(ahead)]
    for m in range(micro):
        order.append((False, m))
        order += [(True, m + ahead)] if m + ahead < micro else []
    return order


def _as_early_as_possible(orders: Sequence[Order]) -> Timetable:
    """The timetable in which every stage keeps to its order, and waits only for messages."""
    stages = len(orders)
    done: dict[tuple[int, Work], int] = {}  # the tick of each piece of work
    left = [list(order) for order in orders]
    tick = 0
    while any(left):
        for stage, order in enumerate(left):
            first = _begin(stage, stages, order, done, tick)
            # Within a tick the last stage goes forward and then backward; all others go backward first.
            if first and order and first[0] == (stage == stages - 1) != order[0][0]:
                _begin(stage, stages, order, done, tick)
        tick += 1
    tables = np.full((2, tick, stages), NOTHING)
    for (stage, (forward, m)), when in done.items():
        tables[0 if forward else 1, when, stage] = m
        following = done.get((stage, (forward, m + 1)))
        reader = done.get((stage + 1 if forward else stage - 1, (forward, m)))
        if following is not None and reader is not None and reader > following:
            raise ValueError(f"stage {stage} sends another message before micro-batch {m} has been read")
    return Timetable(*tables)


def _begin(stage: int, stages: int, order: Order, done: dict[tuple[int, Work], int], tick: int) -> Work | None:
    """A stage begins the first work of its order, if the message for it has arrived."""
    if not order:
        return None
    forward, m = order[0]
    sender = stage - 1 if forward else stage + 1
    if 0 <= sender < stages and done.get((sender, (forward, m)), tick) >= tick:
        return None
    done[stage, (forward, m)] = tick
    return order.pop(0)
