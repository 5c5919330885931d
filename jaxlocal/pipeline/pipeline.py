"""The pipeline: every component of a forward-only rule learns at once, each on its own device, each from its own batch.

At tick τ stage j learns from batch τ - j (both from 0; Table 1 of the AL paper), then every message moves on by one
stage. The components' own steps, `rule.learn`, are those that the sequential `update` folds over, so nothing is stale:
each component sees the same batches in the same order with the same weights, and T ticks and a drain are T sequential
updates. One program runs on all devices: `lax.switch` picks each device's own work, `lax.ppermute` moves the messages.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from math import prod
from statistics import median
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxlocal import checks
from jaxlocal.network import Tree, evenly, neighbours
from jaxlocal.pipeline.packing import Packing, Slots, empty, pack, packing, unpack
from jaxlocal.pipeline.schedule import Schedule
from jaxlocal.rule import Batch, Component, Info, Lesson, Message, Params, Rule, forward_stats, report

__all__ = ["Costs", "Pipeline", "PipelineParams", "Schedule", "balance", "measure", "mesh", "pipelined"]

Step = Callable[[Component, Message], tuple[Component, Message, Lesson]]
Flag = bool | jax.Array
Carry = tuple[Any, Slots, jax.Array]  # the components in some form, and mail and notes of the same stages
Stage = tuple[int, ...]  # neighbouring components, which learn from the same batch at the same tick


class Run(NamedTuple):
    """Neighbouring stages of one device; more than one only if they are alike, and then they run as one."""

    start: int  # the number of the first of them
    stages: tuple[Stage, ...]


class Layout(NamedTuple):
    """Where everything lies in the arrays of a pipeline."""

    runs: tuple[tuple[Run, ...], ...]  # of each device
    components: Packing  # of each device: for each run a stage's components, stacked where it has several stages
    messages: Packing  # to each stage but the first
    terms: tuple[tuple[str, ...], ...]  # the names of each component's losses
    batch: Any  # its shapes


@struct.dataclass
class PipelineParams:
    """The state of a pipeline: the components, each on its own device, and the messages under way.

    Every array is sharded over the component axis: along its first axis lie the parts of all devices. `slots` hold the
    components (those of different devices may differ in shape: see `jaxlocal.packing`). The first axis of the others
    is the stages: `mail` (stages, B, …) holds the messages that they will read at the next tick, `notes` the losses so
    far on the batch that each message comes from and, last, 1 if there is such a batch, else 0.
    """

    slots: Slots
    mail: Slots
    notes: jax.Array
    layout: Layout = struct.field(pytree_node=False)


@struct.dataclass
class Fed:
    """A batch that only the devices of the first stage hold; the others have zeros in its place. `Pipeline.feed`."""

    batch: Batch  # the parts of all devices, one after the other


@dataclass(frozen=True, eq=False)  # known by its identity: it can be a static argument of jit
class Pipeline:
    """A pipelined rule: what `pipelined` makes. All its methods are pure functions, as the rule's own are."""

    rule: Rule
    mesh: Mesh
    axis: str
    stages: tuple[Stage, ...]
    room: float

    def init(self, key: jax.Array, batch: Batch) -> PipelineParams:
        """The rule's own start, each component made on its device; all batches must be of this one's size."""
        checks.key(key)
        checks.batch(batch)
        params = jax.eval_shape(self.rule.init, key, batch)
        layout = self._lay_out(params, batch)
        return self._at_rest(layout, self._begin(layout, key, jax.tree.map(lambda leaf: leaf[:1], batch)))

    def feed(self, batch: Batch, stacked: bool = False) -> Fed:
        """The batch where it is needed: on the first stage's devices, its examples dealt out over the data axes.

        `step` takes it in the batch's place, as `run` does `feed(batches, stacked=True)` of batches (T, B, …). A plain
        batch goes to every device; this way the examples are sent to one, and other hosts may pass anything of the
        same shape.
        """

        def one(leaf: Any) -> jax.Array:
            leaf = np.asarray(leaf)
            lead, size = (slice(None),) * stacked, leaf.shape[stacked]

            def part(index: Any) -> np.ndarray:
                start, stop, _ = index[stacked].indices(size * self._devices)
                own = leaf[(*lead, slice(start % size, start % size + stop - start))]
                return own if start < size else np.zeros_like(own)

            sharding = NamedSharding(self.mesh, P(*(None,) * stacked, (self.axis, *self._data_axes)))
            shape = (*leaf.shape[:stacked], size * self._devices, *leaf.shape[stacked + 1 :])
            return jax.make_array_from_callback(shape, sharding, part)

        return Fed(jax.tree.map(one, batch))

    def step(self, params: PipelineParams, batch: Batch | Fed | None) -> tuple[PipelineParams, Info]:
        """One tick: the batch enters the first stage, or none does, and every stage learns from what it has.

        The losses travel with their batch: the info is of the one that leaves the last stage, NaN while there is none.
        """
        self._check(params, batch)
        return self._tick(params, batch)

    def update(self, params: PipelineParams, batch: Batch | Fed | None) -> PipelineParams:
        """`step` without the info."""
        return self.step(params, batch)[0]

    def run(self, params: PipelineParams, batches: Batch | Fed) -> tuple[PipelineParams, Info]:
        """One tick for each of the batches, (T, B, …), and as many as it takes to finish them: one program.

        The info has a row for each batch: it is that of `lax.scan(rule.step, params, batches)`.
        """
        for name, leaf in zip("xy", batches.batch if isinstance(batches, Fed) else batches, strict=True):
            if getattr(leaf, "ndim", 0) < 3:
                raise ValueError(
                    f"batches: {name}={checks.show(leaf)} must be (T, B, …), batches first; a single batch is for step"
                )
        self._check(params, jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), batches))
        return self._run(params, batches)

    def drain(self, params: PipelineParams) -> Params:
        """Finish what is under way; the parameters are the rule's own after the same batches, on every device."""
        self._check(params, None)
        return self._drain(params)

    def place(self, params: Params, batch: Batch) -> PipelineParams:
        """The rule's own parameters, wherever they are, each component on its device, for batches of these shapes."""
        checks.params(params, len(_steps(self.rule)))
        layout = self._lay_out(params, batch)
        components = jax.tree.map(_on_host, params.components)
        packed = [pack(layout.components, device, _gather(runs, components)) for device, runs in enumerate(layout.runs)]
        return self._at_rest(layout, tuple(map(self._spread, zip(*packed, strict=True))))

    def predict(self, params: PipelineParams, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """The scores by the drained parameters."""
        return self.rule.predict(self.drain(params), x, key)

    def schedule(self, batches: int) -> Schedule:
        """The timetable of so many batches: ticks, utilisation, bubble."""
        return Schedule(batches, len(self.stages))

    # What lies where.

    @property
    def _devices(self) -> int:
        return self.mesh.shape[self.axis]

    @property
    def _share(self) -> int:
        """The number of stages of each device."""
        return len(self.stages) // self._devices

    @property
    def _data_axes(self) -> tuple[str, ...]:
        return tuple(name for name in self.mesh.axis_names if name != self.axis)

    def _sharding(self, *axes: Any) -> NamedSharding:
        return NamedSharding(self.mesh, P(*axes))

    def _lay_out(self, params: Params, batch: Batch) -> Layout:
        """The layout for parameters and batches of these shapes."""
        params, batch = _shapes(params), _shapes(batch)
        checks.batch(batch, params.shapes, forward_stats(params))
        size, parts = batch[0].shape[0], prod(self.mesh.shape[name] for name in self._data_axes)
        if size % parts:
            raise ValueError(
                f"batch: x has {size} examples, which cannot be dealt out evenly to the {parts} devices of the mesh's "
                f"axis {' and '.join(map(repr, self._data_axes))}; take a multiple of {parts}"
            )
        message, messages, terms, programs = batch, [], [], []
        for stage in self.stages:
            messages.append(message)
            components = tuple(params.components[i] for i in stage)
            if self._share > 1:  # stages are alike if they are the same program to the compiler, down to the constants
                programs.append(jax.jit(partial(_learn, self.rule, stage)).lower(components, message).as_text())
            for i in stage:
                _, message, lesson = jax.eval_shape(_steps(self.rule)[i], params.components[i], message)
                terms.append(tuple(sorted(lesson.losses)))
        runs = []
        for first in range(0, len(self.stages), self._share):
            own: list[Run] = []
            for j in range(first, first + self._share):
                if own and programs[j] == programs[j - 1]:
                    own[-1] = Run(own[-1].start, (*own[-1].stages, self.stages[j]))
                else:
                    own.append(Run(j, (self.stages[j],)))
            runs.append(tuple(own))
        trees = [jax.eval_shape(partial(_gather, own), params.components) for own in runs]
        return Layout(tuple(runs), packing(trees, room=self.room), packing(messages[1:], lead=1), tuple(terms), batch)

    def _check(self, params: PipelineParams, batch: Batch | Fed | None) -> None:
        if not isinstance(params, PipelineParams):
            raise TypeError(
                f"params is of type {type(params).__name__}, but must be a pipeline's: call its init, or place(params, "
                "batch) for parameters of the rule"
            )
        made_for = params.layout.runs
        stages = tuple(stage for own in made_for for run in own for stage in run.stages)
        if stages != self.stages or len(made_for) != self._devices:
            raise ValueError(
                "params were made by a pipeline with other stages: drain them by that one, and place them in this one"
            )
        if batch is None:
            return
        entering: Any = batch
        if isinstance(batch, Fed):  # the first device's part of it
            entering = tuple(
                jax.ShapeDtypeStruct((leaf.shape[0] // self._devices, *leaf.shape[1:]), leaf.dtype)
                for leaf in batch.batch
            )
        shapes = params.layout.batch
        checks.batch(entering, tuple(leaf.shape[1:] for leaf in shapes))
        if entering[0].shape[0] != shapes[0].shape[0]:
            raise ValueError(
                f"batch: x has {entering[0].shape[0]} examples, but this pipeline is under way with batches of "
                f"{shapes[0].shape[0]}: leave incomplete batches out, or drain and place(params, batch)"
            )

    def _spread(self, pieces: Sequence[jax.Array]) -> jax.Array:
        """Each piece on its device."""
        sharding = self._sharding(self.axis)
        if isinstance(pieces[0], jax.core.Tracer):
            return lax.with_sharding_constraint(jnp.concatenate(pieces), sharding)
        length, *rest = pieces[0].shape

        def piece(index: Any) -> jax.Array:
            return pieces[(index[0].start or 0) // length]

        return jax.make_array_from_callback((len(pieces) * length, *rest), sharding, piece)

    # The programs.

    def _on_devices(self, function: Callable[..., Any], own: tuple[Any, ...], shared: tuple[Any, ...]) -> Any:
        """`function(device, *own, *shared)` on each device, of what is `own` with its own part; the parts together."""

        def here(device: jax.Array, own: tuple[Any, ...], shared: tuple[Any, ...]) -> Any:
            return function(device[0], *own, *shared)

        parts = P(self.axis)
        everywhere = jax.shard_map(
            here,
            mesh=self.mesh,
            in_specs=(parts, parts, P()),
            out_specs=parts,
            axis_names={self.axis},  # over the other axes the compiler divides the work, as `_split` tells it
            check_vma=False,
        )
        return everywhere(jnp.arange(self._devices), own, shared)

    @partial(jax.jit, static_argnums=(0, 1))
    def _begin(self, layout: Layout, key: jax.Array, example: Batch) -> Slots:
        """The components at the start: each device's program leaves out what makes those of others."""

        def make(device: int, key: jax.Array, example: Batch) -> Slots:
            components = self.rule.init(key, example).components
            return pack(layout.components, device, _gather(layout.runs[device], components))

        branches = [partial(make, device) for device in range(self._devices)]
        return self._on_devices(lambda device, *shared: lax.switch(device, branches, *shared), (), (key, example))

    @partial(jax.jit, static_argnums=(0, 1))
    def _at_rest(self, layout: Layout, slots: Slots) -> PipelineParams:
        """The components with no batch under way."""

        def zeros(shape: tuple[int, ...], dtype: Any, *axes: Any) -> jax.Array:
            array = jnp.zeros((len(self.stages), *shape), dtype)
            return lax.with_sharding_constraint(array, self._sharding(self.axis, *axes))

        # The examples of messages lie as ticks leave them, or the second tick would be another program.
        split = [self._data_axes] if self._data_axes else []
        mail = tuple(zeros(slot.shape, slot.dtype, *split) for slot in layout.messages.slots)
        return PipelineParams(slots, mail, zeros((sum(map(len, layout.terms)) + 1,), jnp.float32), layout)

    @partial(jax.jit, static_argnums=0)
    def _tick(self, params: PipelineParams, batch: Batch | Fed | None) -> tuple[PipelineParams, Info]:
        """All devices learn, and hand on their messages."""
        layout = params.layout
        onward = [(device, device + 1) for device in range(self._devices - 1)]

        def shift(sent: jax.Array) -> jax.Array:
            """What the stages of a device have sent becomes what the next ones will read."""
            return jnp.concatenate([lax.ppermute(sent[-1:], self.axis, onward), sent[:-1]])

        def here(device: jax.Array, slots: Slots, mail: Slots, notes: jax.Array, fed: Any, batch: Any) -> Any:
            batch = batch if fed is None else fed.batch
            carry = slots, mail, notes
            for d in range(self._devices):
                is_this = device == d if self._devices > 1 else True
                carry = _once(is_this, partial(self._work, layout, d, is_this, batch), carry)
            slots, mail, notes = carry
            return slots, *jax.tree.map(shift, (mail, notes)), notes[-1:]

        fed, batch = (batch, None) if isinstance(batch, Fed) else (None, batch)
        own = params.slots, params.mail, params.notes, fed
        slots, mail, notes, leaving = self._on_devices(here, own, (batch,))
        note = lax.with_sharding_constraint(leaving[-1], self._sharding())
        values = iter(jnp.where(note[-1] > 0, note[:-1], jnp.nan))
        terms = tuple({name: next(values) for name in names} for names in layout.terms)
        return PipelineParams(slots, mail, notes, layout), report(terms)

    def _work(self, layout: Layout, device: int, is_this: Flag, batch: Batch | None, carry: Carry) -> Carry:
        """One device's part in a tick: in place of the messages that its stages have read, those that they send."""
        slots, mail, notes = carry
        learnt, sent = [], []
        for run, tree in zip(layout.runs[device], unpack(layout.components, device, slots), strict=True):
            position = run.start - device * self._share
            own = slice(position, position + len(run.stages))
            learn = self._learn_alone if len(run.stages) == 1 else self._learn_together
            tree, *out = learn(layout, run, is_this, batch, (tree, tuple(slot[own] for slot in mail), notes[own]))
            learnt.append(tree)
            sent.append(tuple(out))
        mail, notes = jax.tree.map(lambda *parts: jnp.concatenate(parts), *sent)
        return pack(layout.components, device, tuple(learnt), slots), mail, notes

    def _learn_alone(self, layout: Layout, run: Run, is_this: Flag, batch: Batch | None, carry: Carry) -> Carry:
        """A stage learns if there is a message for it; the first stage's is the batch."""
        (stage,) = run.stages
        first = run.start == 0
        if first and batch is None:
            return carry

        def learn(carry: Carry) -> Carry:
            tree, mail, notes = carry
            inbox = tuple(slot[0] for slot in mail)
            message: Any = batch if first else unpack(layout.messages, run.start - 1, inbox)
            tree, message, losses = _learn(self.rule, stage, tree, self._split(message))
            # Nobody reads what the last stage sends. But were it what it has received, the compiler would see that no
            # message waits for the last stage, exchange them before it learns, and so make it wait for the others.
            last = run.start == len(self.stages) - 1
            outbox = empty(layout.messages) if last else pack(layout.messages, run.start, message)
            mail = tuple(slot[None] for slot in outbox)
            return tree, mail, self._note(layout, run, notes, losses[None], entered=first)

        # A first stage is always busy. If the compiler knew, it would merge two loops and copy what they update.
        return _once(is_this if first else carry[2][0, -1] > 0, learn, carry)

    def _learn_together(self, layout: Layout, run: Run, is_this: Flag, batch: Batch | None, carry: Carry) -> Carry:
        """Alike stages learn as one batched operation; what those without a message have learnt is undone."""
        entered = run.start == 0 and batch is not None
        busy = carry[2][:, -1] > 0
        if entered:
            busy = busy.at[0].set(True)

        def learn(carry: Carry) -> Carry:
            tree, mail, notes = carry
            messages = jax.vmap(partial(unpack, layout.messages, max(run.start - 1, 0)))(mail)
            if entered:
                messages = jax.tree.map(lambda many, entering: many.at[0].set(entering), messages, batch)
            tree, messages, losses = jax.vmap(partial(_learn, self.rule, run.stages[0]))(tree, self._split(messages, 1))
            mail = jax.vmap(partial(pack, layout.messages, min(run.start, len(self.stages) - 2)))(messages)
            return tree, mail, self._note(layout, run, notes, losses, entered)

        def learn_some(carry: Carry) -> Carry:
            def choose(new: jax.Array, old: jax.Array) -> jax.Array:
                return jnp.where(busy.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

            return jax.tree.map(choose, learn(carry), carry)

        everyone = jnp.all(busy)
        return _once(jnp.any(busy) & ~everyone, learn_some, _once(everyone, learn, carry))

    def _note(self, layout: Layout, run: Run, notes: jax.Array, losses: jax.Array, entered: bool) -> jax.Array:
        """The notes on a run's messages, with what its stages have lost; if a batch has entered, the first is new."""
        if entered:
            notes = notes.at[0].set(0).at[0, -1].set(1)
        rows = []
        for note, loss, stage in zip(notes, losses, run.stages, strict=True):
            before = sum(map(len, layout.terms[: stage[0]]))
            rows.append(lax.dynamic_update_slice(note, loss, (before,)))
        return jnp.stack(rows)

    def _split(self, message: Message, axis: int = 0) -> Message:
        """The message with its examples dealt out over the data axes, if the mesh has any."""
        if not self._data_axes:
            return message
        spec = P(*[None] * axis, self._data_axes)
        return jax.tree.map(lambda leaf: lax.with_sharding_constraint(leaf, spec), message)

    @partial(jax.jit, static_argnums=0)
    def _finish(self, params: PipelineParams) -> tuple[PipelineParams, Info]:
        """Ticks without a new batch, until none is under way."""
        return lax.scan(lambda params, _: self._tick(params, None), params, length=len(self.stages) - 1)

    @partial(jax.jit, static_argnums=0)
    def _run(self, params: PipelineParams, batches: Batch | Fed) -> tuple[PipelineParams, Info]:
        params, infos = lax.scan(self._tick, params, batches)
        params, last = self._finish(params)
        waiting = len(self.stages) - 1  # ticks before the first of these batches leaves
        return params, jax.tree.map(lambda *parts: jnp.concatenate(parts)[waiting:], infos, last)

    @partial(jax.jit, static_argnums=0)
    def _drain(self, params: PipelineParams) -> Params:
        params, _ = self._finish(params)
        layout = params.layout
        components: list[Component] = []
        for device, runs in enumerate(layout.runs):
            own = tuple(jnp.split(slot, self._devices)[device] for slot in params.slots)
            components += _scatter(runs, unpack(layout.components, device, own))
        drained = Params(tuple(components), tuple(leaf.shape[1:] for leaf in layout.batch))
        return lax.with_sharding_constraint(drained, self._sharding())


def pipelined(
    rule: Rule, mesh: Mesh, axis: str = "component", *, stages: Sequence[int] | None = None, room: float = 1.0
) -> Pipeline:
    """A forward-only rule as a pipeline over one axis of a mesh of devices.

    Over the mesh's other axes, if it has any, each batch is split: gradients and batch statistics are still those of
    the whole batch.

    Args:
      rule: a rule whose components learn from the message alone; `rule.learn` holds their steps.
      mesh: the devices.
      axis: the axis of the mesh along which the components lie.
      stages: how many neighbouring components make up each stage; `balance` finds a good cut. There are as many stages
        as devices on the axis, or a multiple: then a device runs several stages at every tick, and those that are alike
        (the same computation on the same shapes) as one batched operation. By default one stage a device, cut as evenly
        as can be.
      room: how much memory each device may use for components, as a multiple of the least, which is about that of the
        largest share. Arrays of different shapes take turns in the same memory, and the smaller ones are copied at
        every tick; with more room the largest of these are not.

    Returns:
      The pipeline.

    Example:
      >>> rule = jl.rules.al(jl.models.mlp(hidden=(16, 16), classes=10), optax.adam(1e-3))
      >>> pipe = jl.pipelined(rule, jl.pipeline.mesh(component=1))
      >>> batch = jnp.ones((4, 64)), jax.nn.one_hot(jnp.arange(4), 10)
      >>> params = pipe.init(jax.random.key(0), batch)
      >>> for _ in range(3):
      ...     params = pipe.update(params, batch)
      >>> int(pipe.drain(params).components[1].count)
      3

    Reference:
      Kao, Chen. Associated Learning: decomposing end-to-end backpropagation based on autoencoders and target
      propagation. Neural Computation 33, 2021. Table 1.
    """
    count = len(_steps(rule))
    if not isinstance(mesh, Mesh):
        raise TypeError(
            f"mesh={checks.show(mesh)}: must be a jax.sharding.Mesh, such as jl.pipeline.mesh(component=2) makes"
        )
    if axis not in mesh.axis_names:
        names = ", ".join(map(repr, mesh.axis_names))
        near = get_close_matches(str(axis), mesh.axis_names, n=1) or mesh.axis_names[:1]
        raise ValueError(f"axis={axis!r}: the mesh has only {names}; pass axis={near[0]!r}, or another mesh")
    devices = mesh.shape[axis]
    if count < devices:
        raise ValueError(
            f"mesh: axis {axis!r} has {devices} devices, but the rule has only {count} components; take "
            f"jl.pipeline.mesh({axis}={count}), with data={devices // count} beside it to use more devices, or cut the "
            "network into more components"
        )
    sizes = evenly(count, devices) if stages is None else tuple(stages)
    for size in sizes:
        checks.positive_int("stages", size)
    checks.positive("room", room)
    if room < 1:
        raise ValueError(f"room={room}: must be 1 or more; 1 is the least that holds the components")
    if sum(sizes) != count or len(sizes) % devices:
        raise ValueError(
            f"stages={sizes}: must be {devices} numbers, or a multiple of that, for the devices of axis {axis!r}, and "
            f"sum to the rule's {count} components; jl.pipeline.balance makes such"
        )
    automatic = Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim)
    return Pipeline(rule, automatic, axis, neighbours(sizes), room)


def mesh(**axes: int) -> Mesh:
    """A mesh of the machine's first devices, by the sizes of its axes.

    Example:
      >>> jl.pipeline.mesh(component=1, data=1).axis_names
      ('component', 'data')
    """
    for name, size in axes.items():
        checks.positive_int(name, size)
    wanted, devices = prod(axes.values()), jax.devices()
    if not axes or wanted > len(devices):
        sizes = ", ".join(f"{name}={size}" for name, size in axes.items())
        raise ValueError(
            f"mesh({sizes}): needs {wanted} devices, but there are {len(devices)} ({devices[0].platform}); take "
            f"smaller axes, such as component={len(devices)}, or make a CPU into more devices, in the environment, by "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={wanted}"
        )
    types = (AxisType.Auto,) * len(axes)
    return Mesh(np.array(devices[:wanted]).reshape(*axes.values()), tuple(axes), axis_types=types)


STEPS = 4  # that `measure` takes at a time


class Costs(NamedTuple):
    """What `measure` finds of each component."""

    seconds: tuple[float, ...]  # of its step on a batch
    message: tuple[int, ...]  # bytes that it hands on


def measure(rule: Rule, params: Params, batch: Batch, repeats: int = 5) -> Costs:
    """Each component's step, timed on the device of the parameters: the median of some repeats, after one to compile.

    Example:
      >>> rule = jl.rules.al(jl.models.mlp(hidden=(16, 16), classes=10), optax.adam(1e-3))
      >>> batch = jnp.ones((4, 64)), jax.nn.one_hot(jnp.arange(4), 10)
      >>> costs = jl.pipeline.measure(rule, rule.init(jax.random.key(0), batch), batch)
      >>> len(jl.pipeline.balance(costs.seconds, 2)), costs.message
      (2, (512, 512))
    """
    seconds, sizes, message = [], [], batch
    for learn, component in zip(_steps(rule), params.components, strict=True):
        # Several steps in one program, as in training: a single call would also pay for the memory that it allocates.
        @partial(jax.jit, donate_argnums=0)
        def steps(component: Component, message: Message, learn: Any = learn) -> Component:
            return lax.scan(lambda component, _: (learn(component, message)[0], None), component, length=STEPS)[0]

        onward = jax.jit(learn)(component, message)[1]
        learnt = jax.block_until_ready(steps(jax.tree.map(jnp.copy, component), message))
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            learnt = jax.block_until_ready(steps(learnt, message))
            times.append((time.perf_counter() - start) / STEPS)
        message = onward
        seconds.append(median(times))
        sizes.append(sum(leaf.nbytes for leaf in message))
    return Costs(tuple(seconds), tuple(sizes))


def balance(costs: Sequence[float], stages: int) -> tuple[int, ...]:
    """Cut components of these costs into neighbouring stages so that the most expensive stage costs least.

    Args:
      costs: of each component, in any unit, as `measure` finds them in seconds.
      stages: how many stages to make.

    Returns:
      The number of components of each stage: `pipelined` takes it as `stages`.

    Example:
      >>> jl.pipeline.balance([4, 1, 2, 0.5], 2)
      (1, 3)
    """
    checks.positive_int("stages", stages)
    if stages > len(costs):
        raise ValueError(f"stages={stages}: there are {len(costs)} components, and a stage needs one at least")
    for cost in costs:
        checks.non_negative("costs", cost)
    sums = np.concatenate([[0], np.cumsum(costs)])
    # best[n]: the least possible cost of the dearest stage, and the cut, for the first n components
    best: dict[int, tuple[float, tuple[int, ...]]] = {n: (float(sums[n]), (n,)) for n in range(1, len(costs) + 1)}
    for made in range(2, stages + 1):
        best = {
            n: min((max(best[m][0], float(sums[n] - sums[m])), (*best[m][1], n - m)) for m in range(made - 1, n))
            for n in range(made, len(costs) + 1)
        }
    return best[len(costs)][1]


def _steps(rule: Rule) -> tuple[Step, ...]:
    """Each component's own step, of a rule that has them."""
    if not isinstance(rule, Rule):
        raise TypeError(f"rule={checks.show(rule)}: must be a rule, such as jl.rules.al(net, tx)")
    if rule.placement.members:
        raise ValueError(f"rule: is an ensemble of {rule.placement.members}; a pipeline takes a single rule")
    if rule.learn is None:
        raise ValueError(
            "rule: its components learn only after a pass through the whole network (they wait for an error or for "
            "targets from the top, which a backward pass brings), so they cannot learn from different batches at once; "
            "a pipeline needs a forward-only rule, whose rule.learn is not None: jl.rules.al, jl.rules.drtp, or your "
            "own of parts that teach"
        )
    return rule.learn


def _learn(rule: Rule, stage: Stage, components: Tree, message: Message) -> tuple[Tree, Message, jax.Array]:
    """The rule itself: the step of each component of a stage, and all their losses in one vector."""
    learnt, losses = [], []
    for i, component in zip(stage, components, strict=True):
        with jax.named_scope(f"component {i}"):
            component, message, lesson = _steps(rule)[i](component, message)
        learnt.append(component)
        losses += [value.astype(jnp.float32) for _, value in sorted(lesson.losses.items())]
    return tuple(learnt), message, jnp.stack(losses)


def _gather(runs: tuple[Run, ...], components: tuple[Component, ...]) -> Tree:
    """The components of each run, those of alike stages stacked."""
    trees = []
    for run in runs:
        stages = [tuple(components[i] for i in stage) for stage in run.stages]
        trees.append(jax.tree.map(lambda *leaves: jnp.stack(leaves), *stages) if len(stages) > 1 else stages[0])
    return tuple(trees)


def _scatter(runs: tuple[Run, ...], trees: Tree) -> list[Component]:
    """The components again, in order."""
    components: list[Component] = []
    for run, tree in zip(runs, trees, strict=True):
        many = len(run.stages) > 1
        for k in range(len(run.stages)):
            components += jax.tree.map(lambda leaf, k=k: leaf[k], tree) if many else tree
    return components


def _once(condition: Flag, function: Callable[[Carry], Carry], carry: Carry) -> Carry:
    """`function(carry)` if the condition holds, else the carry.

    As a loop of one round or none: XLA updates in place what goes round a loop, but copies what a conditional returns.
    """
    if condition is True:
        return function(carry)
    return lax.fori_loop(0, jnp.asarray(condition, jnp.int32), lambda _, carry: function(carry), carry)


def _shapes(tree: Tree) -> Tree:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def _on_host(leaf: jax.Array) -> jax.Array:
    """The array on this process's first device, whatever devices hold it."""
    if isinstance(leaf, jax.core.Tracer):
        return leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_on_host(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
    return jnp.asarray(np.asarray(leaf))
