"""A stage of pipelined backpropagation: neighbouring layers, a forward pass, and a backward pass from what it kept.

JAX's pullback is a tree of arrays. Some are weights, the batch or constants: these are not kept for each micro-batch,
but put back in the backward pass.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.dtypes import float0
from jax.extend import core

from jaxlocal.costs import operations
from jaxlocal.network import Network, Tree, apply_layer, neighbours
from jaxlocal.parts import init_forward

Shapes = tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]  # of a batch


class Stage(NamedTuple):
    """Neighbouring layers. The output of the last stage is the loss, and the input of the first has no error."""

    layers: tuple[nn.Module, ...]
    loss: Callable[[jax.Array, jax.Array], jax.Array] | None  # of the last stage
    first: bool
    weights: Tree  # the shapes of its weights
    reads: jax.ShapeDtypeStruct  # one micro-batch
    targets: jax.ShapeDtypeStruct
    sends: jax.ShapeDtypeStruct
    pullback: Any  # the structure of the pullback
    places: tuple[int, ...]  # where each leaf of the pullback is found: among what is given, what is kept, constants
    kept: tuple[int, ...]  # the numbers of the leaves that are kept
    shapes: tuple[jax.ShapeDtypeStruct, ...]  # of what is kept

    def forward(self, weights: Tree, x: jax.Array, y: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        """The output for a micro-batch, and what the backward pass needs."""
        out, leaves, _ = self._trace(weights, x, y)
        return out, [leaves[i] for i in self.kept]

    def backward(
        self, weights: Tree, x: jax.Array | None, y: jax.Array, kept: Sequence[jax.Array], error: Tree
    ) -> tuple[Tree, Tree]:
        """The gradients for a micro-batch, and the error of its input; x is needed in the first stage only."""
        given = [*jax.tree.leaves(weights), y, *([x] if self.first else [])]
        # Constants do not depend on the inputs, and the compiler drops the rest of this pass.
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (self.weights, self.reads, self.targets))
        _, constants, _ = self._trace(*zeros)
        found = [*given, *kept, *constants]
        pull = jax.tree.unflatten(self.pullback, [found[place] for place in self.places])
        grads, *below = pull(jax.tree.map(_as_cotangent, error))
        return grads, jax.tree.map(_as_message, below[0], self.reads) if below else None

    def _trace(self, weights: Tree, x: jax.Array, y: jax.Array) -> tuple[jax.Array, list[jax.Array], Any]:
        return _trace(self.layers, self.loss, self.first, weights, x, y)


def _as_cotangent(error: jax.Array) -> jax.Array | np.ndarray:
    """The error of an output; JAX has a type of its own for what has none, such as the mask of a sequence."""
    return error if jnp.issubdtype(error.dtype, jnp.floating) else np.zeros(error.shape, float0)


def _as_message(cotangent: Any, of: jax.ShapeDtypeStruct) -> jax.Array:
    """The error of an input as an array of its type."""
    return jnp.zeros(of.shape, of.dtype) if cotangent.dtype == float0 else cotangent


def make_stages(net: Network, sizes: Sequence[int], batch: Shapes) -> tuple[Stage, ...]:
    """Stages of these numbers of layers, for micro-batches of these shapes."""
    weights, reads = layer_shapes(net, batch)
    stages = []
    for numbers in neighbours(sizes):
        own = tuple(weights[i] for i in numbers)
        loss = net.loss.mean if numbers[-1] == len(net.layers) - 1 else None
        layers = tuple(net.layers[i] for i in numbers)
        stages.append(_make_stage(layers, loss, numbers[0] == 0, own, reads[numbers[0]], batch[1]))
    return tuple(stages)


def layer_shapes(net: Network, batch: Shapes) -> tuple[tuple[Tree, ...], list[jax.ShapeDtypeStruct]]:
    """The shapes of each layer's weights and input."""
    roles, stats, _ = jax.eval_shape(init_forward(net.layers), jax.random.key(0), batch)
    if jax.tree.leaves(stats):
        raise ValueError("net: has batch statistics, which are those of a whole batch, but a stage sees a part of it")
    weights, x, reads = roles["forward"], batch[0], []
    for layer, own in zip(net.layers, weights, strict=True):
        reads.append(x)
        x = jax.eval_shape(partial(_apply, layer), own, x)
    return weights, reads


def layer_costs(net: Network, batch: Shapes) -> list[float]:
    """The operations of each layer's forward and backward pass."""
    costs = []
    for stage in make_stages(net, [1] * len(net.layers), batch):

        def passes(weights: Tree, x: jax.Array, y: jax.Array, error: jax.Array, stage: Stage = stage) -> Any:
            out, kept = stage.forward(weights, x, y)
            return out, stage.backward(weights, x, y, kept, error)

        costs.append(operations(passes, stage.weights, stage.reads, stage.targets, stage.sends))
    return costs


def _apply(layer: nn.Module, weights: Tree, x: jax.Array) -> jax.Array:
    return apply_layer(layer, weights, {}, x)[0]


def _trace(
    layers: tuple[nn.Module, ...], loss: Any, first: bool, weights: Tree, x: jax.Array, y: jax.Array
) -> tuple[jax.Array, list[jax.Array], Any]:
    """The output, and the leaves and the structure of the pullback."""

    def output(weights: Tree, x: jax.Array) -> jax.Array:
        for layer, own in zip(layers, weights, strict=True):
            x = _apply(layer, own, x)
        return x if loss is None else loss(x, y)

    if first:
        out, pull = jax.vjp(lambda weights: output(weights, x), weights)
    else:
        out, pull = jax.vjp(output, weights, x)
    return out, *jax.tree.flatten(pull)


def _make_stage(layers: tuple[nn.Module, ...], loss: Any, first: bool, weights: Tree, x: Any, y: Any) -> Stage:
    """A stage: each leaf of its pullback is something given, something kept, or a constant."""
    structure: Any = None

    def trace(weights: Tree, x: jax.Array, y: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        nonlocal structure
        out, leaves, structure = _trace(layers, loss, first, weights, x, y)
        return out, leaves

    program, (out, shapes) = jax.make_jaxpr(trace, return_shape=True)(weights, x, y)
    inputs, count = program.jaxpr.invars, len(jax.tree.leaves(weights))
    *of_x, of_y = inputs[count:]
    given = [*inputs[:count], of_y, *(of_x if first else [])]
    leaves = program.jaxpr.outvars[-len(shapes) :]  # the others are of the output
    varies = _depend(program.jaxpr, [True] * len(inputs))[-len(shapes) :]
    kept: list[int] = []
    for number, leaf in enumerate(leaves):
        if varies[number] and leaf not in [*given, *(leaves[i] for i in kept)]:
            kept.append(number)
    found = [*given, *(leaves[i] for i in kept)]
    places = [found.index(leaf) if varies[number] else len(found) + number for number, leaf in enumerate(leaves)]
    return Stage(
        layers, loss, first, weights, x, y, out, structure, tuple(places), tuple(kept), tuple(shapes[i] for i in kept)
    )


def _depend(program: core.Jaxpr, inputs: Sequence[bool]) -> list[bool]:
    """Which outputs depend on those inputs that are marked."""
    marked = {variable for variable, mark in zip(program.invars, inputs, strict=True) if mark}

    def depends(atom: Any) -> bool:
        return not isinstance(atom, core.Literal) and atom in marked

    for equation in program.eqns:
        before = list(map(depends, equation.invars))
        inner = equation.params.get("jaxpr")
        if equation.primitive.name in ("jit", "pjit") and inner is not None:
            after = _depend(inner.jaxpr, before)
        else:
            after = [any(before)] * len(equation.outvars)
        marked.update(variable for variable, mark in zip(equation.outvars, after, strict=True) if mark)
    return list(map(depends, program.outvars))
