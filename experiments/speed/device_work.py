"""What one of several devices does in a batch, timed on one core, while the caller may keep the others busy.

A pipeline divides the layers, and data-parallel training the examples. Here a device is taken alone: with its stage of
Associated Learning, with its stage of GPipe, or with its share of the examples. Of the stages that have the same shapes
one is timed.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import fmean
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import PartitionSpec as P

import jaxlocal as jl
from experiments.speed.backprop_pipeline import micro_batch
from experiments.speed.backprop_stage import Stage, make_stages
from experiments.speed.shared import ADAM, Problem, Timed, learned, repeated, timed
from jaxlocal.network import Tree, neighbours
from jaxlocal.pipeline.stages import steps
from jaxlocal.rule import Component, Learn, Message

State = Any  # what a piece of work changes
Piece = tuple[str, int, Callable[[State, Any], State], State, Any]  # name, how many are alike, what it does, with what

ADDITIONS = 20  # of all gradients in one timed program


class Divided(NamedTuple):
    """A problem whose components, or layers, are divided over several numbers of devices.

    Args:
      problem: makes the rule and a batch.
      cuts: for each number of devices, how many components or layers the stages have.
    """

    problem: Problem
    cuts: Sequence[Sequence[int]]


def unlike(cut: Sequence[int], work_on: Callable[[tuple[int, ...]], Tree]) -> Iterator[tuple[tuple[int, ...], int]]:
    """Stages that differ from each other, and how many are like each of them.

    The first stage and the last one do other work than those between them. These differ by the shapes of the arrays
    that they work on.
    """
    stages = neighbours(cut)
    shapes = [str(jax.tree.map(jnp.shape, work_on(stage))) for stage in stages]
    kinds = [(stage == stages[0], stage == stages[-1], own) for stage, own in zip(stages, shapes, strict=True)]
    for kind, count in Counter(kinds).items():
        yield stages[kinds.index(kind)], count


def al_stage(devices: int) -> str:
    """The name of the step of a stage of Associated Learning."""
    return f"al, a stage of {devices}"


def bp_passes(devices: int, micro: int) -> str:
    """The name of the passes of all micro-batches through a stage of backpropagation."""
    return f"bp, a stage of {devices}, {micro} micro-batches"


def bp_update(devices: int) -> str:
    """The name of the optimizer's step in a stage of backpropagation."""
    return f"bp, a stage of {devices}, optimizer"


def mean_of(stage: str) -> str:
    """The name of the mean over all stages. Without it, the name of the work of a stage stands for the slowest one."""
    return f"{stage}, mean of the stages"


def bp_share(devices: int) -> str:
    """The name of the step of backpropagation on a share of the examples."""
    return f"bp, a share of {devices}"


def work(al: Divided, bp: Divided, micro: Sequence[int]) -> Callable[[], dict[str, float]]:
    """Finds the seconds of every piece of work, by its name; `micro` are numbers of micro-batches."""
    calls: dict[str, list[tuple[int, Timed]]] = {}
    for name, alike, piece, state, given in (*_al_stages(al), *_bp_stages(bp, micro), *_bp_shares(bp)):
        calls.setdefault(name, []).append((alike, repeated(piece, state, given)))

    def seconds() -> dict[str, float]:
        found = {}
        for name, own in calls.items():
            alike, each = zip(*((count, call()) for count, call in own), strict=True)
            found[name] = max(each)
            if sum(alike) > 1:
                found[mean_of(name)] = fmean(each, alike)
        return found

    return seconds


def _al_stages(al: Divided) -> Iterator[Piece]:
    rule, batch = al.problem()
    components, learn = jax.jit(rule.init)(jax.random.key(0), batch).components, steps(rule)
    messages = jax.jit(partial(_messages, learn))(components, batch)

    def work_on(stage: tuple[int, ...]) -> tuple[tuple[Component, ...], Message]:
        return tuple(components[i] for i in stage), messages[stage[0]]

    for cut in al.cuts:
        for stage, alike in unlike(cut, work_on):
            yield al_stage(len(cut)), alike, partial(learned, learn, stage), *work_on(stage)


def _messages(learn: Sequence[Learn], components: Sequence[Component], batch: Message) -> list[Message]:
    """What each component reads."""
    messages = [batch]
    for step, component in zip(learn[:-1], components[:-1], strict=True):
        messages.append(step(component, messages[-1])[1])
    return messages


def _bp_shares(bp: Divided) -> Iterator[Piece]:
    rule, batch = bp.problem()
    params = jax.jit(rule.init)(jax.random.key(0), batch)
    for parts in map(len, bp.cuts):
        share = tuple(leaf[: len(leaf) // parts] for leaf in batch)
        yield bp_share(parts), 1, lambda params, share: rule.step(params, share)[0], params, share


def _bp_stages(bp: Divided, micro: Sequence[int]) -> Iterator[Piece]:
    rule, batch = bp.problem()
    weights = jax.jit(rule.init)(jax.random.key(0), batch).components[0].weights["forward"]

    def work_on(stage: tuple[int, ...]) -> Tree:
        return tuple(weights[i] for i in stage)

    for cut in bp.cuts:
        for numbers, alike in unlike(cut, work_on):
            own = work_on(numbers)
            gradients = jax.tree.map(lambda leaf: 1e-3 * leaf, own)  # any will do
            yield bp_update(len(cut)), alike, _update, (own, ADAM.init(own)), gradients
            for count in micro:
                stage = make_stages(rule.net, cut, micro_batch(batch, count))[neighbours(cut).index(numbers)]
                sent = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (stage.sends, stage.reads))
                given = _given(stage, count, batch[1])
                yield bp_passes(len(cut), count), alike, partial(_passes, stage), (own, gradients, sent), given


def _given(stage: Stage, micro: int, y: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What a stage reads of each micro-batch, its labels, and the error that comes back."""
    x = jax.random.normal(jax.random.key(0), (micro, *stage.reads.shape), stage.reads.dtype)
    return x, y.reshape(micro, *stage.targets.shape), jnp.full((micro, *stage.sends.shape), 1 / micro)


def _passes(stage: Stage, state: State, given: tuple[jax.Array, jax.Array, jax.Array]) -> State:
    """All micro-batches go forward through a stage and then backward, as in GPipe; their gradients are added up."""
    weights, gradients, (up, down) = state
    x, y, error = given
    # They depend on the gradients of the round before; otherwise the compiler could compute them once for all rounds.
    x = x + 0 * jnp.ravel(jax.tree.leaves(gradients)[0])[0]

    def forward(_: jax.Array, given: Any) -> tuple[jax.Array, Any]:
        return stage.forward(weights, *given)

    def backward(state: tuple[Tree, jax.Array], given: Any) -> tuple[Any, None]:
        (x, y, error), kept = given
        new, down = stage.backward(weights, x if stage.first else None, y, kept, error)
        return (jax.tree.map(jnp.add, state[0], new), state[1] if stage.first else down), None

    up, kept = lax.scan(forward, up, (x, y))
    state, _ = lax.scan(backward, (jax.tree.map(jnp.zeros_like, gradients), down), ((x, y, error), kept))
    gradients, down = state
    return weights, gradients, (up, down)


def _update(state: State, gradients: Tree) -> State:
    """The step of the optimizer."""
    weights, opt = state
    with jax.numpy_dtype_promotion("standard"):  # optax multiplies its int32 counts by floats
        updates, opt = ADAM.update(gradients, opt, weights)
    return optax.apply_updates(weights, updates), opt


def addition(problem: Problem) -> Timed:
    """Adds up the gradients of backpropagation over all devices of the process; XLA joins the arrays."""
    rule, batch = problem()
    (component,) = jax.eval_shape(rule.init, jax.random.key(0), batch).components

    def add(gradients: Tree, _: jax.Array) -> tuple[Tree, None]:
        return jax.tree.map(lambda leaf: lax.pmean(leaf, "data"), gradients), None

    run = jax.shard_map(
        lambda gradients, several: lax.scan(add, gradients, several),
        mesh=jl.pipeline.mesh(data=len(jax.devices())),
        in_specs=P(),
        out_specs=P(),
        check_vma=False,
    )
    return timed(run, lambda key, _: jax.tree.map(jnp.zeros_like, component.weights), jnp.zeros(()), ADDITIONS)
