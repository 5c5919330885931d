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
    groups = neighbours(stages)
    slowest = max(sum(seconds[i] for i in group) for group in groups)
    return slowest + max((link.seconds(message[group[-1]]) for group in groups[:-1]), default=0.0)


def pipelined_epoch(batches: int, devices: Any, tick: float) -> Any:
    """Seconds of an epoch in the pipeline, the drain included, for a number of devices or an array of them."""
    return (batches + devices - 1) * tick


def gpipe_epoch(batches: int, devices: Any, micro: int, step: Any) -> Any:
    """Seconds of an epoch of backpropagation as in GPipe, for a number of devices or an array of them."""
    return batches * (micro + devices - 1) / micro * step / devices
