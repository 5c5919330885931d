"""Where everything lies in the arrays of a pipeline.

The components are cut into stages, and every device has the same number of neighbouring stages. Stages of one device
that do the same computation on the same shapes form a group, which learns as one batched operation. The layout also
says how components and messages of different shapes share the same arrays, and where each loss lies in a note.

A note belongs to a message: it is a vector of the losses so far on the batch that the message comes from, followed by 1
if there is such a batch and 0 if there is none.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlocal.network import Tree
from jaxlocal.pipeline.packing import Packing, packing
from jaxlocal.pipeline.stages import Stage, learn_stage
from jaxlocal.rule import Component, Info, Learn, Params

Shapes = tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]  # of a batch or a message


class Group(NamedTuple):
    """Neighbouring stages of one device that are alike; most groups are a single stage."""

    first: int  # the number of the first of these stages
    stages: tuple[Stage, ...]


class Layout(NamedTuple):
    """Where everything lies in the arrays of a pipeline."""

    groups: tuple[tuple[Group, ...], ...]  # of each device
    components: Packing  # a form for each device: `gather` of its groups
    messages: Packing  # a form for each stage but the first: the message that it reads
    losses: tuple[tuple[str, ...], ...]  # the names of each component's losses
    batch: Shapes

    @property
    def devices(self) -> int:
        """The number of devices."""
        return len(self.groups)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of all devices."""
        return tuple(stage for groups in self.groups for group in groups for stage in group.stages)

    @property
    def stages_per_device(self) -> int:
        """The number of stages of each device."""
        return len(self.stages) // self.devices

    @property
    def note_length(self) -> int:
        """The length of a note: all losses, and whether there is a batch."""
        return sum(map(len, self.losses)) + 1

    def rows(self, group: Group) -> slice:
        """Where the stages of a group lie among those of their device."""
        start = group.first % self.stages_per_device
        return slice(start, start + len(group.stages))

    def first_loss(self, stage: Stage) -> int:
        """Where the losses of a stage begin in a note."""
        return sum(map(len, self.losses[: stage[0]]))

    def info(self, note: jax.Array) -> Info:
        """The losses of a note by their names; all are NaN if there is no batch."""
        values = iter(jnp.where(note[-1] > 0, note[:-1], jnp.nan))
        return Info.of(tuple({name: next(values) for name in names} for names in self.losses))


def lay_out(
    steps: tuple[Learn, ...], params: Params, batch: Shapes, stages: tuple[Stage, ...], devices: int, room: float
) -> Layout:
    """The layout of a pipeline, for parameters and batches of these shapes."""
    read, losses = [], []  # the message that each stage reads; the names of each component's losses
    message = batch
    for stage in stages:
        read.append(message)
        for i in stage:
            _, message, lesson = jax.eval_shape(steps[i], params.components[i], message)
            losses.append(tuple(sorted(lesson.losses)))

    def program(number: int) -> str:
        """A stage as the compiler sees it, constants included: stages are alike if these texts are the same."""
        stage = stages[number]
        components = tuple(params.components[i] for i in stage)
        return jax.jit(partial(learn_stage, steps, stage)).lower(components, read[number]).as_text()

    each = len(stages) // devices
    groups = tuple(_group(stages, range(d * each, (d + 1) * each), program) for d in range(devices))
    trees = [jax.eval_shape(partial(gather, own), params.components) for own in groups]
    return Layout(groups, packing(trees, room=room), packing(read[1:], lead=1), tuple(losses), batch)


def gather(groups: tuple[Group, ...], components: tuple[Component, ...]) -> tuple[Tree, ...]:
    """From all components, those of each group; the components of alike stages are stacked."""
    trees = []
    for group in groups:
        stages = [tuple(components[i] for i in stage) for stage in group.stages]
        trees.append(jax.tree.map(lambda *leaves: jnp.stack(leaves), *stages) if len(stages) > 1 else stages[0])
    return tuple(trees)


def scatter(groups: tuple[Group, ...], trees: tuple[Tree, ...]) -> list[Component]:
    """The inverse of `gather`: the components of these groups, in order."""
    components: list[Component] = []
    for group, tree in zip(groups, trees, strict=True):
        stacked = len(group.stages) > 1
        for k in range(len(group.stages)):
            components += jax.tree.map(lambda leaf, k=k: leaf[k], tree) if stacked else tree
    return components


def _group(stages: tuple[Stage, ...], numbers: Sequence[int], program: Callable[[int], str]) -> tuple[Group, ...]:
    """The stages with these numbers, which are all those of a device, in groups of neighbours with the same program."""
    if len(numbers) == 1:  # Lowering a program takes time, and one stage has nothing to be compared with.
        return (Group(numbers[0], (stages[numbers[0]],)),)
    alike = [list(neighbours) for _, neighbours in groupby(numbers, key=program)]
    return tuple(Group(members[0], tuple(stages[j] for j in members)) for members in alike)
