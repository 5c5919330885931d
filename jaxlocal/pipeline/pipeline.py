"""The pipeline: all components of a forward-only rule learn at the same time, each on its own device and its own batch.

The components are cut into stages. At tick τ stage j learns from batch τ - j, both counted from 0 (Table 1 of the AL
paper); then every message moves on by one stage. A component's step is the same `rule.learn` that the sequential
`update` calls. Each component therefore sees the same batches in the same order and with the same weights as in the
sequence: no gradient is stale, and T ticks followed by a drain give the parameters of T sequential updates.

This module has the functions that a user calls. `jaxlocal.pipeline.layout` says where everything lies in arrays, and
`jaxlocal.pipeline.program` what one device does in a tick.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jax.sharding import Mesh

from jaxlocal import checks
from jaxlocal.hints import nearest
from jaxlocal.network import evenly, neighbours, vocabulary
from jaxlocal.pipeline.devices import Devices, automatic, on_host
from jaxlocal.pipeline.layout import Layout, gather, lay_out, members, scatter
from jaxlocal.pipeline.packing import Slots, pack, unpack
from jaxlocal.pipeline.program import Program, State, tick
from jaxlocal.pipeline.schedule import Schedule
from jaxlocal.pipeline.stages import Stage, steps
from jaxlocal.pipeline.start import Start
from jaxlocal.programs import compiled
from jaxlocal.rule import Batch, Component, Info, Params, Rule, forward_stats
from jaxlocal.tokens import check_padding

ROOM = 1.5  # the default for the memory of a device, as a multiple of the least


@struct.dataclass
class PipelineParams:
    """The state of a pipeline: the components, each on its own device, and the messages between them.

    Every array is sharded along its first axis, so that each device holds its own part. `slots` hold the components,
    packed because those of different devices may differ in shape (see `jaxlocal.pipeline.packing`). The other arrays
    have one row for each stage: `mail` (stages, B, …) holds the messages that the stages will read at the next tick,
    and `notes` the losses so far on the batch of each message, followed by 1 if there is such a batch and 0 if not.
    """

    slots: Slots
    mail: Slots
    notes: jax.Array
    layout: Layout = struct.field(pytree_node=False)


@struct.dataclass
class Fed:
    """A batch that lies on the devices of the first stage only; `Pipeline.feed` makes it."""

    batch: Batch  # the parts of all devices, one after the other; those of other stages are zeros


@dataclass(frozen=True, eq=False)  # A pipeline is compared by identity, so that it can be a static argument of jit.
class Pipeline:
    """A pipelined rule, which `pipelined` makes. Its methods are pure functions, as those of a rule are."""

    rule: Rule
    mesh: Mesh
    axis: str
    stages: tuple[Stage, ...]
    room: float
    # Whether `jax.shard_map` checks which values differ between devices ("varying manual axes"). Our tests ask for it.
    # Otherwise it is off, because it also refuses correct layers of users: a loop that starts from a constant must then
    # say, by `jax.lax.pcast`, that its values differ between devices, which a layer written for one device does not.
    check_vma: bool = False

    def init(self, key: jax.Array, batch: Batch) -> PipelineParams:
        """The parameters of the rule's own `init`, made for one device after the other, and copied to it.

        All later batches must have as many examples as this one.
        """
        checks.key(key)
        checks.batch(batch, self.rule.net)
        start = Start(self.rule, on_host(key), jax.tree.map(lambda leaf: on_host(leaf[:1]), batch))
        return self._begin(self._layout(start.params, batch), start.components)

    def feed(self, batch: Batch, stacked: bool = False) -> Fed:
        """Put a batch on the devices of the first stage only, its examples split over the mesh's other axes.

        `step` takes the result in place of a batch, and `run` takes `feed(batches, stacked=True)` in place of batches
        (T, B, …). Without `feed` every device receives the whole batch. If there are several hosts, only those of the
        first stage need the right values; the others may pass any arrays of the same shape.
        """
        checks.pair_of_arrays("batch", batch)
        checks.flag("stacked", stacked)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in batch):
            raise TypeError(
                "batch: is traced, but feed puts arrays on devices; call it outside of jit, or pass the batch itself"
            )
        shapes = _shapes_of_one("batch", batch, "leave out stacked=True") if stacked else batch
        self._devices.check_split(shapes)
        self._check_values("batches" if stacked else "batch", batch)
        return Fed(jax.tree.map(lambda leaf: self._devices.on_first(leaf, stacked), batch))

    def step(self, params: PipelineParams, batch: Batch | Fed | None) -> tuple[PipelineParams, Info]:
        """One tick: the batch, if there is one, enters the first stage, and every stage learns from what it has.

        Losses travel with their batch: the info is that of the batch which leaves the last stage, and NaN if none does.
        """
        self._check(params, batch)
        return self._tick(params, batch)

    def update(self, params: PipelineParams, batch: Batch | Fed | None) -> PipelineParams:
        """`step` without the info."""
        return self.step(params, batch)[0]

    def run(self, params: PipelineParams, batches: Batch | Fed) -> tuple[PipelineParams, Info]:
        """One tick for each of the batches (T, B, …), then ticks until all have left the pipeline, in one program.

        The info has one row for each batch, as that of `lax.scan(rule.step, params, batches)` has.
        """
        pair = batches.batch if isinstance(batches, Fed) else batches
        checks.pair_of_arrays("batches", pair)
        shapes = _shapes_of_one("batches", pair, "use step")
        if pair is batches:  # those of a Fed were checked before
            self._check_values("batches", pair)
        self._check(params, Fed(shapes) if isinstance(batches, Fed) else shapes)
        return self._run(params, batches)

    def drain(self, params: PipelineParams) -> Params:
        """The rule's parameters after all batches that have entered, on every device."""
        self._check(params, None)
        return self._drain(params)

    def place(self, params: Params, batch: Batch) -> PipelineParams:
        """Put parameters of the rule on the pipeline's devices; all batches must have the shapes of this one."""
        self.rule.check(params)
        components = jax.tree.map(on_host, params.components)
        return self._begin(self._layout(params, batch), lambda numbers: {i: components[i] for i in numbers})

    def predict(self, params: PipelineParams, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """The rule's scores for x, by the drained parameters."""
        return self.rule.predict(self.drain(params), x, key)

    def schedule(self, batches: int) -> Schedule:
        """The timetable for this number of batches: ticks, utilisation, bubble."""
        return Schedule(batches, len(self.stages))

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of components in each stage."""
        return tuple(map(len, self.stages))

    @property
    def _devices(self) -> Devices:
        return Devices(self.mesh, self.axis)

    def _layout(self, params: Params, batch: Batch) -> Layout:
        shapes: Any
        checks.batch(batch, self.rule.net, params.shapes, forward_stats(params))
        self._check_padding("batch", batch)
        params, shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (params, batch))
        self._devices.check_split(shapes)
        return lay_out(steps(self.rule), params, shapes, self.stages, self._devices.count, self.room)

    def _begin(self, layout: Layout, make: Callable[[Collection[int]], Mapping[int, Component]]) -> PipelineParams:
        """The state with the components that `make` returns for their numbers, and no batch in the pipeline."""

        def slots(device: int) -> Slots:
            groups = layout.groups[device]
            return pack(layout.components, device, gather(groups, make(members(groups))))

        return self._at_rest(layout, self._devices.on_each(slots))

    def _check(self, params: PipelineParams, batch: Batch | Fed | None) -> None:
        """Raise an error unless these are parameters of this pipeline, and the batch is of their shapes."""
        if not isinstance(params, PipelineParams):
            raise TypeError(
                f"params is of type {type(params).__name__}, but must be a pipeline's: call its init, or place(params, "
                "batch) for parameters of the rule"
            )
        layout = params.layout
        if layout.stages != self.stages or layout.devices != self._devices.count:
            raise ValueError(
                "params belong to a pipeline with other stages: drain them with that one, and place them in this one"
            )
        if not self._devices.hold(params.notes):
            raise ValueError(
                "params lie on other devices than this pipeline's: drain them with the pipeline that made them, and "
                "place them in this one"
            )
        if batch is None:
            return
        entering: Any = _of_one_device(batch, layout.devices) if isinstance(batch, Fed) else batch
        checks.batch(entering, self.rule.net, tuple(leaf.shape[1:] for leaf in layout.batch))
        self._check_padding("batch", entering)
        found, wanted = entering[0].shape[0], layout.batch[0].shape[0]
        if found != wanted:
            raise ValueError(
                f"batch: x has {found} examples, but this pipeline holds batches of {wanted}: leave incomplete batches "
                "out, or drain and place(params, batch)"
            )

    def _check_values(self, name: str, pair: Batch) -> None:
        """Raise an error for numbers that no batch may hold, as far as they can be read here."""
        for leaf, array in zip("xy", pair, strict=True):
            checks.finite(name, leaf, array)
        checks.token_ids(f"{name}: x", pair[0], vocabulary(self.rule.net))
        self._check_padding(name, pair)

    def _check_padding(self, name: str, pair: Batch) -> None:
        check_padding(name, *pair, self.rule.net.layers[0])

    # The compiled programs.

    @compiled(static=2)
    def _at_rest(self, layout: Layout, slots: Slots) -> PipelineParams:
        """The state with these components and no batch in the pipeline."""

        def zeros(shape: tuple[int, ...], dtype: Any, *axes: Any) -> jax.Array:
            array = jnp.zeros((len(self.stages), *shape), dtype)
            return lax.with_sharding_constraint(array, self._devices.sharding(self.axis, *axes))

        # The mail is split as a tick leaves it; otherwise the second tick would have to be compiled again.
        split = [self._devices.data_axes] if self._devices.data_axes else []
        mail = tuple(zeros(slot.shape, slot.dtype, *split) for slot in layout.messages.slots)
        return PipelineParams(slots, mail, zeros((layout.note_length,), jnp.float32), layout)

    @compiled(static=1)
    def _tick(self, params: PipelineParams, batch: Batch | Fed | None) -> tuple[PipelineParams, Info]:
        """All devices learn and exchange their messages."""
        self.rule.check(jax.eval_shape(_unpacked, params))  # here, so that it takes time once, when this is traced
        layout = params.layout
        program = Program(steps(self.rule), layout, self.axis, self._devices.data_axes)

        def here(device: jax.Array, own: tuple[State, Batch | None], shared: Batch | None) -> tuple[State, jax.Array]:
            state, fed = own
            # A batch that all devices share becomes each device's own. Otherwise, under `check_vma`, a gradient with
            # respect to it would be summed over the devices, of which only the first computes it.
            entering = lax.pcast(shared, self.axis, to="varying") if fed is None else fed
            return tick(program, device, state, entering)

        fed, shared = (batch.batch, None) if isinstance(batch, Fed) else (None, batch)
        before = State(params.slots, params.mail, params.notes)
        after, notes = self._devices.run(here, (before, fed), shared, self.check_vma)
        leaving = lax.with_sharding_constraint(notes[-1], self._devices.sharding())
        return PipelineParams(after.components, after.mail, after.notes, layout), layout.info(leaving)

    @compiled(static=1)
    def _finish(self, params: PipelineParams) -> tuple[PipelineParams, Info]:
        """Ticks without a new batch, until the pipeline is empty."""
        return lax.scan(lambda params, _: self._tick(params, None), params, length=len(self.stages) - 1)

    @compiled(static=1)
    def _run(self, params: PipelineParams, batches: Batch | Fed) -> tuple[PipelineParams, Info]:
        params, infos = lax.scan(self._tick, params, batches)
        params, last = self._finish(params)
        waiting = len(self.stages) - 1  # the number of ticks before the first of these batches leaves
        return params, jax.tree.map(lambda *parts: jnp.concatenate(parts)[waiting:], infos, last)

    @compiled(static=1)
    def _drain(self, params: PipelineParams) -> Params:
        params, _ = self._finish(params)
        return lax.with_sharding_constraint(_unpacked(params), self._devices.sharding())


def _unpacked(params: PipelineParams) -> Params:
    """The rule's parameters, each component as it is at this tick."""
    layout = params.layout
    components: list[Component] = []
    for device, groups in enumerate(layout.groups):

        def own(slot: jax.Array, device: int = device) -> jax.Array:
            length = slot.shape[0] // layout.devices
            return lax.slice_in_dim(slot, device * length, (device + 1) * length)

        components += scatter(groups, unpack(layout.components, device, tuple(map(own, params.slots))))
    return Params(tuple(components), tuple(leaf.shape[1:] for leaf in layout.batch))


def _shapes_of_one(name: str, batches: Batch, remedy: str) -> Any:
    """The shapes of one of the batches (T, B, …). The remedy is what to do with a single batch."""
    for leaf, array in zip("xy", batches, strict=True):
        if array.ndim < 3 or array.shape[0] != batches[0].shape[0]:
            raise ValueError(
                f"{name}: {leaf}={checks.show(array)} must be (T, B, …), as many batches in x and y, batches first; "
                f"{remedy} for a single batch"
            )
    return tuple(jax.ShapeDtypeStruct(array.shape[1:], array.dtype) for array in batches)


def _of_one_device(fed: Fed, devices: int) -> Any:
    """The shapes of one device's part of a fed batch."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((leaf.shape[0] // devices, *leaf.shape[1:]), leaf.dtype), fed.batch
    )


def pipelined(
    rule: Rule, mesh: Mesh, axis: str = "component", *, stages: Sequence[int] | None = None, room: float = ROOM
) -> Pipeline:
    """A forward-only rule as a pipeline over one axis of a mesh of devices.

    If the mesh has other axes, each batch is split over them; gradients and batch statistics are still those of the
    whole batch.

    Args:
      rule: a rule whose components learn from their message alone; `rule.learn` holds their steps.
      mesh: the devices.
      axis: the axis of the mesh along which the components lie.
      stages: the number of neighbouring components in each stage; `balance` finds a good cut. The number of stages
        must be that of the devices on the axis, or a multiple of it. With a multiple, each device has several stages,
        and those that do the same computation on the same shapes run as one batched operation. By default each device
        has one stage, and the components are divided as evenly as possible.
      room: the memory that each device may use for components, as a multiple of the least, which is about that of the
        largest stage. Where components have different shapes, smaller arrays that share the memory of larger ones are
        copied at every tick. With more room they get memory of their own, large ones first. Components of the same
        shapes need no more than the least.

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
    components = len(steps(rule))
    _check_mesh(mesh, axis, components)
    checks.positive("room", room)
    if room < 1:
        raise ValueError(f"room={room}: must be 1 or more; 1 is the least that holds the components")
    sizes = evenly(components, mesh.shape[axis]) if stages is None else checks.stage_sizes("stages", stages, components)
    if len(sizes) % (devices := mesh.shape[axis]):
        raise ValueError(
            f"stages={sizes}: has length {len(sizes)}, but must have {devices}, or a multiple of that, for the devices "
            f"of axis {axis!r}; jl.pipeline.balance finds such numbers"
        )
    return Pipeline(rule, automatic(mesh), axis, neighbours(sizes), room)


def _check_mesh(mesh: Mesh, axis: str, components: int) -> None:
    """Raise an error unless this is a mesh with the axis, and the axis is not longer than the number of components."""
    if not isinstance(mesh, Mesh):
        raise TypeError(
            f"mesh={checks.show(mesh)}: must be a jax.sharding.Mesh, such as jl.pipeline.mesh(component=2) makes"
        )
    if axis not in mesh.axis_names:
        raise ValueError(f"axis={axis!r}: the mesh has no such axis; {nearest(str(axis), mesh.axis_names)}")
    devices = mesh.shape[axis]
    if components < devices:
        raise ValueError(
            f"mesh: axis {axis!r} has {devices} devices, but the rule has only {components} components; use "
            f"jl.pipeline.mesh({axis}={components}), with data={devices // components} beside it to use more devices, "
            "or cut the network into more components"
        )
