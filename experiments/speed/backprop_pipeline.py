"""Backpropagation as a pipeline: the layers divided over the devices, and each batch into micro-batches.

All devices run one compiled program. In a tick each of them takes a micro-batch forward or backward through its own
layers, as a `Timetable` says; then activations move up by one device, or errors down, or both. What the backward pass
needs is kept, and nothing is computed twice. Gradients are means over the whole batch, so that a step is that of
`jl.rules.bp`, but for rounding. The optimizer must treat each weight alone, as Adam does.

A device holds its own weights, optimizer state, gradients and activations only. Those of different devices share the
same arrays (see `jaxlocal.pipeline.packing`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh

import jaxlocal as jl
from experiments.speed.backprop_schedule import NOTHING, Schedule, Timetable
from experiments.speed.backprop_stage import Stage, layer_costs, make_stages
from experiments.speed.shared import ADAM, Batch, Finds, Problem, megabytes, timed
from jaxlocal.network import Tree, neighbours
from jaxlocal.pipeline.devices import Devices, on_host
from jaxlocal.pipeline.packing import Packing, Slots, pack, packing, unpack, zeros
from jaxlocal.pipeline.program import run_if

ROOM = 2.0  # the memory for weights, as a multiple of the least, so that few of them are copied; see `packing`


class State(NamedTuple):
    """What the devices hold; every array is sharded along its first axis, and each device has its own part."""

    weights: Slots
    opt: Slots
    work: "Work"


class Work(NamedTuple):
    """What a device works with during a batch; the next batch needs nothing of it."""

    kept: Slots  # what the backward passes of the micro-batches on their way need
    up: Slots  # the activations that the device has received
    down: Slots  # the error that the device has received
    sent_up: Slots
    sent_down: Slots
    grads: Slots
    loss: jax.Array  # (1,)
    passes: jax.Array  # (1,), the number of passes that the device has made


class Layout(NamedTuple):
    """The stages, and where everything lies in the arrays; a packing has a form for each stage."""

    stages: tuple[Stage, ...]
    weights: Packing
    opt: Packing
    messages: Packing  # a form for each stage but the last: the activations that it sends
    kept: Packing  # each leaf has an axis for the micro-batches that the stage holds at a time


@dataclass(frozen=True, eq=False)
class BackpropPipeline:
    """Backpropagation of a feed-forward network, without batch statistics and dropout, over the devices of a mesh.

    Args:
      net: the network.
      tx: the optimizer.
      mesh: devices along one axis, one for each stage.
      sizes: the number of layers of each stage, the head included; `balanced` finds a good cut.
      timetable: when the micro-batches go through the stages.
    """

    net: jl.Network
    tx: optax.GradientTransformation
    mesh: Mesh
    sizes: tuple[int, ...]
    timetable: Timetable

    def __post_init__(self) -> None:
        """Refuse stages that do not fit the devices or the layers."""
        if not self._devices.count == len(self.sizes) == self.timetable.stages:
            raise ValueError(f"stages={self.sizes}: there are {self._devices.count} devices, and each has one stage")
        if sum(self.sizes) != len(self.net.layers) or min(self.sizes) < 1:
            raise ValueError(f"stages={self.sizes}: must be 1 or more and sum to the {len(self.net.layers)} layers")

    def layout(self, batch: Any) -> Layout:
        """Where everything lies, for batches of these shapes."""
        stages = make_stages(self.net, self.sizes, micro_batch(batch, self.timetable.micro))
        kept = [
            tuple(jax.ShapeDtypeStruct((held, *leaf.shape), leaf.dtype) for leaf in stage.shapes)
            for stage, held in zip(stages, self.timetable.held, strict=True)
        ]
        weights = [stage.weights for stage in stages]
        return Layout(
            stages,
            packing(weights, room=ROOM),
            packing([jax.eval_shape(self.tx.init, own) for own in weights], room=ROOM),
            packing([stage.sends for stage in stages[:-1]], lead=1),
            packing(kept),
        )

    def init(self, key: jax.Array, batch: Batch) -> State:
        """The state with the weights with which bp starts."""
        params = jax.jit(jl.rules.bp(self.net, self.tx).init)(key, batch)
        return self.place(params.components[0].weights["forward"], batch)

    def place(self, weights: tuple[Tree, ...], batch: Batch) -> State:
        """The state with these weights of each layer; all batches must have the shapes of this one."""
        layout = self.layout(batch)
        layers = neighbours(self.sizes)

        def state(d: int) -> State:
            own = jax.tree.map(on_host, tuple(weights[i] for i in layers[d]))
            return State(pack(layout.weights, d, own), pack(layout.opt, d, self.tx.init(own)), _idle(layout))

        return self._devices.on_each(state)

    def weights(self, state: State, batch: Batch) -> tuple[Tree, ...]:
        """The weights of each layer."""
        layout, layers = self.layout(batch), []
        for d in range(len(layout.stages)):
            own = tuple(jnp.split(on_host(slot), len(layout.stages))[d] for slot in state.weights)
            layers += unpack(layout.weights, d, own)
        return tuple(layers)

    def run(self, state: State, batches: Batch) -> tuple[State, jax.Array]:
        """A step for each of the batches (T, B, …), and the loss of each, in one program; it can be compiled."""
        layout = self.layout(jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), batches))

        def here(device: jax.Array, own: State, batches: Batch) -> tuple[State, jax.Array]:
            program = Program(layout, self.timetable, self.tx, self._devices.axis, device)
            return lax.scan(partial(_step, program), own, batches)

        state, losses = self._devices.run(here, state, batches, check_vma=False)
        return state, losses[-len(batches[0]) :]  # those of the last device

    @property
    def _devices(self) -> Devices:
        (axis,) = self.mesh.axis_names
        return Devices(self.mesh, axis)


def balanced(net: jl.Network, batch: Batch, stages: int, micro: int) -> tuple[int, ...]:
    """The numbers of layers of each stage such that the most expensive stage has the fewest operations."""
    return jl.pipeline.balance(layer_costs(net, micro_batch(batch, micro)), stages)


def micro_batch(batch: Any, micro: int) -> Any:
    """The shapes of a micro-batch."""
    size = len(batch[0]) if hasattr(batch[0], "__len__") else batch[0].shape[0]
    if size % micro:
        raise ValueError(f"micro={micro}: a batch of {size} cannot be divided into so many micro-batches of one size")
    return tuple(jax.ShapeDtypeStruct((size // micro, *leaf.shape[1:]), leaf.dtype) for leaf in batch)


# What one device does.


class Program(NamedTuple):
    """What a device knows beforehand."""

    layout: Layout
    timetable: Timetable
    tx: optax.GradientTransformation
    axis: str
    device: jax.Array


def _idle(layout: Layout) -> Work:
    """The work of a device that has none."""
    kept, grads = zeros(layout.kept), zeros(layout.weights)
    up, down, sent_up, sent_down = (zeros(layout.messages) for _ in range(4))
    return Work(kept, up, down, sent_up, sent_down, grads, jnp.zeros(1), jnp.zeros(1, jnp.int32))


def _step(program: Program, state: State, batch: Batch) -> tuple[State, jax.Array]:
    """All micro-batches of a batch go through the device's stage, and its weights change."""
    weights, opt, work = state
    micro = program.timetable.micro
    x, y = (leaf.reshape(micro, -1, *leaf.shape[1:]) for leaf in batch)
    work = work._replace(loss=jnp.zeros_like(work.loss), passes=jnp.zeros_like(work.passes))
    tables = jnp.asarray(program.timetable.forward), jnp.asarray(program.timetable.backward)

    def tick(work: Work, rows: tuple[jax.Array, jax.Array]) -> tuple[Work, None]:
        return _tick(program, weights, (x, y), work, rows), None

    work, _ = lax.scan(tick, work, tables)
    state = State(weights, opt, work)
    for d in range(len(program.layout.stages)):
        state = run_if(program.device == d, partial(_descend, program, d), state)
    return state, state.work.loss[0]


def _tick(program: Program, weights: Slots, batch: Batch, work: Work, rows: tuple[jax.Array, jax.Array]) -> Work:
    """The passes of a device in a tick; then all devices exchange their messages, if any of them has a new one."""
    stages = len(program.layout.stages)
    forward_row, backward_row = rows
    for d in range(stages):
        passes = [(_forward, forward_row[d]), (_backward, backward_row[d])]
        for one, m in passes if d == stages - 1 else reversed(passes):
            mine = (program.device == d) & (m != NOTHING)
            work = lax.fori_loop(m, jnp.where(mine, m + 1, m), partial(one, program, d, weights, batch), work)
    sent_up, sent_down = _after(work.passes, (work.sent_up, work.sent_down))
    ups = [(d, d + 1) for d in range(stages - 1)]
    downs = [(d + 1, d) for d in range(stages - 1)]
    up = run_if((forward_row[:-1] != NOTHING).any(), lambda _: _moved(program, sent_up, ups), work.up)
    down = run_if((backward_row[1:] != NOTHING).any(), lambda _: _moved(program, sent_down, downs), work.down)
    return work._replace(up=up, down=down, sent_up=sent_up, sent_down=sent_down)


def _moved(program: Program, sent: Slots, moves: Sequence[tuple[int, int]]) -> Slots:
    """What each device receives when all send at the same time."""
    return tuple(lax.ppermute(slot, program.axis, moves) for slot in sent)


def _forward(program: Program, d: int, weights: Slots, batch: Batch, m: jax.Array, work: Work) -> Work:
    """A micro-batch goes forward through stage d."""
    layout, stage = program.layout, program.layout.stages[d]
    x = batch[0][m] if d == 0 else unpack(layout.messages, d - 1, work.up)
    out, leaves = stage.forward(unpack(layout.weights, d, weights), x, batch[1][m])
    kept = _keep(layout.kept, d, work.kept, m % program.timetable.held[d], leaves)
    work = work._replace(kept=kept, up=_spent(work.up), passes=work.passes + 1)
    if d == len(layout.stages) - 1:
        return work._replace(loss=work.loss + out / program.timetable.micro)
    return work._replace(sent_up=pack(layout.messages, d, out, work.sent_up))


def _backward(program: Program, d: int, weights: Slots, batch: Batch, m: jax.Array, work: Work) -> Work:
    """The error of a micro-batch goes backward through stage d, and its gradients are added to those before it."""
    layout, stage = program.layout, program.layout.stages[d]
    leaves = _recall(layout.kept, d, work.kept, m % program.timetable.held[d])
    if d == len(layout.stages) - 1:
        error = jnp.full(stage.sends.shape, 1 / program.timetable.micro, stage.sends.dtype)
    else:
        error = unpack(layout.messages, d, work.down)
    x = batch[0][m] if d == 0 else None
    grads, below = stage.backward(unpack(layout.weights, d, weights), x, batch[1][m], leaves, error)
    before = unpack(layout.weights, d, work.grads)
    # The first micro-batch of a batch finds the gradients of the last batch, which need not be set to zero before.
    grads = jax.tree.map(lambda old, new: jnp.where(m == 0, jnp.zeros_like(old), old) + new, before, grads)
    grads = pack(layout.weights, d, grads, work.grads)
    work = work._replace(grads=grads, down=_spent(work.down), passes=work.passes + 1)
    return work if d == 0 else work._replace(sent_down=pack(layout.messages, d - 1, below, work.sent_down))


def _descend(program: Program, d: int, state: State) -> State:
    """The optimizer's step of stage d."""
    layout, work = program.layout, state.work
    weights, opt = unpack(layout.weights, d, state.weights), unpack(layout.opt, d, state.opt)
    with jax.numpy_dtype_promotion("standard"):  # optax multiplies its int32 counts by floats
        updates, opt = program.tx.update(unpack(layout.weights, d, work.grads), opt, weights)
    weights = optax.apply_updates(weights, updates)
    return State(
        pack(layout.weights, d, weights, state.weights),
        pack(layout.opt, d, opt, state.opt),
        work._replace(grads=_spent(work.grads)),
    )


def _keep(packing: Packing, d: int, slots: Slots, place: jax.Array, leaves: Sequence[jax.Array]) -> Slots:
    """Write the leaves of a micro-batch to their place in the slots.

    Each is written in a loop of its own, so that the compiler does not join them to one loop over all places.
    """
    after, (_, shapes, numbers) = list(slots), packing.forms[d]
    for leaf, shape, number in zip(leaves, shapes, numbers, strict=True):

        def write(slot: jax.Array, leaf: jax.Array = leaf, shape: Any = shape) -> jax.Array:
            if slot.shape == shape.shape:
                return lax.dynamic_update_index_in_dim(slot, leaf, place, 0)
            return lax.dynamic_update_slice(slot, leaf.reshape(-1), (place * leaf.size,))

        after[number] = run_if(place >= 0, write, after[number])
    return tuple(after)


def _recall(packing: Packing, d: int, slots: Slots, place: jax.Array) -> list[jax.Array]:
    """Read the leaves of a micro-batch from their place in the slots."""
    found, (_, shapes, numbers) = [], packing.forms[d]
    for shape, number in zip(shapes, numbers, strict=True):
        slot, one = slots[number], shape.shape[1:]
        if slot.shape == shape.shape:
            found.append(lax.dynamic_index_in_dim(slot, place, 0, keepdims=False))
        else:
            found.append(lax.dynamic_slice(slot, (place * prod(one),), (prod(one),)).reshape(one))
    return found


def _after(passes: jax.Array, slots: Any) -> Any:
    """The same slots, but they depend on all passes of the tick.

    Otherwise the compiler could put the exchange before a pass whose message is not sent, and the device would begin
    that pass only when all others have finished theirs.
    """
    start = jnp.minimum(passes[0], 0)  # zero, which the compiler does not know

    def touch(slot: jax.Array) -> jax.Array:
        corner = lax.slice(slot, (0,) * slot.ndim, (1,) * slot.ndim)
        return lax.dynamic_update_slice(slot, corner, (start,) * slot.ndim)

    return jax.tree.map(touch, slots)


def _spent(slots: Slots) -> Slots:
    """The slots after they have been read for the last time: one number of each is changed.

    A device skips work by a loop without a round. What depends only on arrays that the loop does not change, the
    compiler would compute before the loop, on every device and in every tick.
    """
    return tuple(
        lax.dynamic_update_slice(slot, jnp.zeros((1,) * slot.ndim, slot.dtype), (0,) * slot.ndim) for slot in slots
    )


def backprop_pipeline(
    problem: Problem,
    steps: int,
    schedule: Schedule,
    micro: int,
    stages: Sequence[int] | None = None,
    find: Finds = timed,
) -> Callable[[], float]:
    """Pipelined backpropagation of the problem's network over all devices, once its gradients have been checked."""
    rule, batch = problem()
    pipe = over_all_devices(rule.net, batch, schedule, micro, stages)
    allowed = max(1e-5, 2e-6 * len(rule.net.layers))  # the roundings of many layers add up
    if (worst := gradient_error(pipe, batch)) > allowed:
        raise RuntimeError(f"the pipeline's gradients differ from those of bp by {worst:.1e} of the largest")
    return find(pipe.run, pipe.init, batch, steps)


def backprop_memory(problem: Problem, schedule: Schedule, micro: int) -> Callable[[], float]:
    """The megabytes that a step of the same pipeline needs on each of all devices, as XLA counts them.

    The gradients are not checked; the tests do that.
    """
    rule, batch = problem()
    pipe = over_all_devices(rule.net, batch, schedule, micro)
    return megabytes(pipe.run, pipe.init, batch, steps=1)


def over_all_devices(
    net: jl.Network, batch: Batch, schedule: Schedule, micro: int, stages: Sequence[int] | None = None
) -> BackpropPipeline:
    """The pipeline of a network, with Adam; without `stages` the layers are cut by their numbers of operations."""
    mesh = jl.pipeline.mesh(stage=len(jax.devices()))
    sizes = balanced(net, batch, mesh.size, micro) if stages is None else tuple(stages)
    return BackpropPipeline(net, ADAM, mesh, sizes, schedule(mesh.size, micro))


def gradient_error(pipe: BackpropPipeline, batch: Batch) -> float:
    """The largest difference between the pipeline's gradients, or its loss, and those of bp, as a share of the largest.

    With this optimizer a step is the gradient many times; a step like the gradient would be lost among the roundings of
    weights that are far larger. Of each layer's arrays the worst counts.
    """
    pipe = replace(pipe, tx=optax.sgd(2.0**12))
    rule = jl.rules.bp(pipe.net, pipe.tx)
    params = jax.jit(rule.init)(jax.random.key(0), batch)
    after, info = jax.jit(rule.step)(params, batch)
    before, wanted = (one.components[0].weights["forward"] for one in (params, after))
    state, losses = jax.jit(pipe.run)(pipe.place(before, batch), jax.tree.map(lambda leaf: leaf[None], batch))
    trees = before, wanted, pipe.weights(state, batch)
    errors = [abs(float(losses[0] - info.losses[0])) / float(info.losses[0])]
    for old, new, found in zip(*map(jax.tree.leaves, trees), strict=True):
        errors.append(float(jnp.abs(on_host(new) - found).max() / jnp.abs(old - new).max()))
    return max(errors)
