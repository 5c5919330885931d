"""Where everything lies in the arrays of a pipeline.

The components are cut into stages, and every device has the same number of neighbouring stages. Stages of one device
that do the same computation on the same shapes form a group, which learns as one batched operation. Devices between the
first and the last whose stages do the same form a team: their work stands in the program once, however many they are.
The layout also says how components and messages of different shapes share the same arrays, and where each loss lies in
a note.

A note belongs to a message: it is a vector of the losses so far on the batch that the message comes from, followed by 1
if there is such a batch and 0 if there is none.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cache, partial
from itertools import groupby
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.stages import Traced

from jaxlocal.kinds import kind_of
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
    teams: tuple[tuple[int, ...], ...]  # the numbers of the devices that do the same; the first and the last are alone
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

    def first_losses(self, device: jax.Array) -> jax.Array:
        """Where the losses of each stage of a device begin in a note."""
        starts = [sum(map(len, self.losses[: stage[0]])) for stage in self.stages]
        return jnp.asarray(starts).reshape(self.devices, -1)[device]

    def info(self, note: jax.Array) -> Info:
        """The losses of a note by their names; all are NaN if there is no batch."""
        values = iter(jnp.where(note[-1] > 0, note[:-1], jnp.nan))
        return Info.of(tuple({name: next(values) for name in names} for names in self.losses))


def lay_out(
    steps: tuple[Learn, ...], params: Params, batch: Shapes, stages: tuple[Stage, ...], devices: int, room: float
) -> Layout:
    """The layout of a pipeline, for parameters and batches of these shapes."""
    read, traces, losses = [], [], []  # the message and the trace of each stage; the names of each component's losses
    known: dict[Hashable, Traced] = {}  # the trace of each kind of stage, because tracing takes time
    message = batch
    for stage in stages:
        given = tuple(params.components[i] for i in stage), message
        if (kind := kind_of(tuple(steps[i] for i in stage), given)) not in known:
            # Nothing unused is dropped, so that the text of a stage tells what it reads.
            known[kind] = jax.jit(partial(learn_stage, steps, stage), keep_unused=True).trace(*given)
        traced = known[kind]
        read.append(message)
        traces.append(traced)
        _, message, found = traced.out_info
        losses += [tuple(own) for own in found]
        if not all(leaf.ndim for leaf in jax.tree.leaves(message)):
            raise ValueError(
                f"rule: the message of component {stage[-1]} holds a scalar, but a pipeline passes on arrays; give it "
                "an axis, such as jnp.broadcast_to(s, (len(x), 1))"
            )

    @cache
    def text(traced: Traced) -> str | None:
        """What the compiler sees of a stage, constants included; None if it calls Python, whose code is not in it."""
        calls_python = traced.jaxpr.effects or "callback" in str(traced.jaxpr)
        return None if calls_python else traced.lower().as_text()

    def program(number: int) -> Hashable:
        """The text of a stage, and its trees: stages with the same are alike."""
        traced = traces[number]
        seen = text(traced)
        return number if seen is None else (traced.in_tree, traced.out_tree, seen)

    each = len(stages) // devices
    numbers = [range(d * each, (d + 1) * each) for d in range(devices)]  # of the stages of each device
    groups = tuple(_group(stages, own, program) for own in numbers)
    trees = [jax.eval_shape(partial(gather, own), {i: params.components[i] for i in members(own)}) for own in groups]
    components, messages = packing(trees, room=room), packing(read[1:], lead=1)

    # How the components and messages of each device between the first and the last are packed.
    forms = {
        device: (components.forms[device], messages.forms[own[0] - 1 : own[-1] + 1])
        for device, own in enumerate(numbers)
        if 0 < device < devices - 1
    }
    sharing = Counter(forms.values())

    def work(device: int) -> Hashable:
        """What such a device does. Only where others have the same forms, its stages are lowered and compared."""
        own = forms[device]
        return own, tuple(map(program, numbers[device])) if sharing[own] > 1 else ()

    return Layout(groups, _teams(devices, work), components, messages, tuple(losses), batch)


def members(groups: tuple[Group, ...]) -> list[int]:
    """The numbers of the components of these groups."""
    return [i for group in groups for stage in group.stages for i in stage]


def gather(groups: tuple[Group, ...], components: Mapping[int, Component]) -> tuple[Tree, ...]:
    """From components by their numbers, those of each group; the components of alike stages are stacked."""
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


def _group(stages: tuple[Stage, ...], numbers: Sequence[int], program: Callable[[int], Hashable]) -> tuple[Group, ...]:
    """The stages with these numbers, which are all those of a device, in groups of neighbours with the same program."""
    if len(numbers) == 1:  # Lowering takes time, and on its device one stage has nothing to be compared with.
        return (Group(numbers[0], (stages[numbers[0]],)),)
    alike = [list(neighbours) for _, neighbours in groupby(numbers, key=program)]
    return tuple(Group(members[0], tuple(stages[j] for j in members)) for members in alike)


def _teams(devices: int, work: Callable[[int], Hashable]) -> tuple[tuple[int, ...], ...]:
    """The devices in teams that have the same work.

    The first device and the last one are alone: batches enter the one, and nobody reads what the other sends.
    """
    teams: dict[Hashable, list[int]] = {}
    for device in range(devices):
        alone = device in (0, devices - 1)
        teams.setdefault(device if alone else work(device), []).append(device)
    return tuple(map(tuple, teams.values()))
