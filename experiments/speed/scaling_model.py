"""A model of the time of an epoch in a pipeline and in GPipe, from measured components, messages and links."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxlocal.network import neighbours


class Link(NamedTuple):
    """The connection of two neighbouring devices."""

    bandwidth: float  # bytes a second
    latency: float  # seconds

    def seconds(self, size: float) -> float:
        """The time of a message of `size` bytes."""
        return self.latency + size / self.bandwidth


def tick(seconds: Sequence[float], message: Sequence[int], stages: Sequence[int], link: Link) -> float:
    """Seconds of a tick, for components with these seconds and messages; `stages` are numbers of components."""
    slowest = max(sum(seconds[i] for i in group) for group in neighbours(stages))
    return slowest + transfer(message, stages, link)


def transfer(message: Sequence[int], stages: Sequence[int], link: Link) -> float:
    """Seconds of the slowest message between stages, for components with these messages."""
    return max((link.seconds(message[group[-1]]) for group in neighbours(stages)[:-1]), default=0.0)


def pipelined_epoch(batches: int, devices: Any, tick: float) -> Any:
    """Seconds of an epoch in the pipeline, the drain included, for a number of devices or an array of them."""
    return (batches + devices - 1) * tick


def measured_tick(batch: float, batches: int, devices: int) -> float:
    """Seconds of a tick, where the pipeline took `batch` seconds for each of these batches, the drain included."""
    return batches * batch / (batches + devices - 1)


def gpipe_epoch(batches: int, devices: Any, micro: int, step: Any) -> Any:
    """Seconds of an epoch of backpropagation as in GPipe, for a number of devices or an array of them."""
    return batches * (micro + devices - 1) / micro * step / devices


def gpipe_step(batch: Any, devices: int, micro: int) -> Any:
    """Seconds of all work on a batch, where GPipe over so many devices takes `batch` seconds for it."""
    return batch / gpipe_epoch(1, devices, micro, 1.0)
