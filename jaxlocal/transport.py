"""How an error crosses a linear map on its way back: through a kernel B of its own, in place of the transposed W.

That is all that feedback alignment and its relatives change in backpropagation. The forward pass stays as it is. Inside
a layer there may be any number of Flax's linear modules; each of them has its own B, stored in the layout of its kernel
W. Everything else in a layer is differentiated exactly. A table of embeddings needs no B, because no error goes further
back than to the vectors that were looked up.
"""

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, reduce
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax.lax import stop_gradient

from jaxlocal.decay import kernels
from jaxlocal.network import Tree, apply_layer
from jaxlocal.rule import Stats

Feedback = dict[str, jax.Array]  # of one layer: the path of a linear module inside it -> its B, in the layout of its W
Linear = Callable[[Tree, jax.Array], jax.Array]  # (weights, x) -> y, linear in x but for a bias
Layers = tuple[nn.Module, ...]

LINEAR = (nn.Dense, nn.DenseGeneral, nn.Einsum, nn.Conv, nn.ConvLocal, nn.ConvTranspose)
CARRIED = "carried"  # the name of a linear module that is applied inside `carry`


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def carry(linear: Linear, weights: Tree, feedback: jax.Array, x: jax.Array) -> jax.Array:
    """`linear(weights, x)`, but the error goes back through the kernel `feedback`."""
    return linear(weights, x)


def _carry_forward(linear: Linear, weights: Tree, feedback: jax.Array, x: jax.Array) -> tuple[jax.Array, Any]:
    return linear(weights, x), (weights, feedback, x)


def _carry_back(linear: Linear, residuals: Any, error: jax.Array) -> tuple[Tree, None, jax.Array]:
    weights, feedback, x = residuals
    (grads,) = jax.vjp(lambda w: linear(w, x), weights)[1](error)
    (error_below,) = jax.vjp(lambda x: linear({**weights, "kernel": feedback}, x), x)[1](error)
    return grads, None, error_below


carry.defvjp(_carry_forward, _carry_back)


def apply_with_feedback(
    layers: Layers,
    weights: tuple[Tree, ...],
    feedback: tuple[Feedback, ...],
    stats: Stats,
    x: jax.Array,
    key: jax.Array,
) -> tuple[jax.Array, Stats]:
    """`jaxlocal.network.apply_layers`, with the error carried back by the feedback."""
    new_stats = []
    for i, layer in enumerate(layers):
        with _carried_by(feedback[i]):
            x, s = apply_layer(layer, weights[i], stats[i], x, jax.random.fold_in(key, i))
        new_stats.append(s)
    return x, tuple(new_stats)


def init_feedback(
    layers: Layers,
    weights: tuple[Tree, ...],
    stats: Stats,
    x: jax.Array,
    key: jax.Array,
    init: nn.initializers.Initializer | None,
) -> tuple[Feedback, ...]:
    """A B for each linear module that needs one, drawn by `init`, or by the module's own initializer."""

    def draw(found: Map, kernel: jax.Array, key: jax.Array) -> jax.Array:
        return (init or found.module.kernel_init)(key, kernel.shape, kernel.dtype)

    return for_each_map(layers, weights, stats, x, key, draw)


def for_each_map(
    layers: Layers,
    weights: tuple[Tree, ...],
    stats: Stats,
    x: jax.Array,
    key: jax.Array,
    value: Callable[["Map", jax.Array, jax.Array], jax.Array],
) -> tuple[Feedback, ...]:
    """`value(map, kernel, key)` for each linear module that needs a B, each with a key of its own."""
    maps = _maps_with_feedback(layers, weights, stats, x)
    values: tuple[Feedback, ...] = tuple({} for _ in layers)
    for found, own_key in zip(maps, jax.random.split(key, len(maps)), strict=True):
        kernel = _at(weights[found.layer], found.path)["kernel"]
        values[found.layer][found.path] = value(found, kernel, own_key)
    return values


def kernels_with_feedback(trees: tuple[Tree, ...], feedback: tuple[Feedback, ...]) -> tuple[Any, ...]:
    """The kernels of a tuple of trees, arranged as the feedback is. Frozen layers, which are None, stay None."""
    return tuple(
        bs and {path: _at(tree, path)["kernel"] for path in bs} for tree, bs in zip(trees, feedback, strict=True)
    )


def _at(tree: Tree, path: str) -> Tree:
    """What a layer's tree holds for the module at this path, whose names are separated by slashes."""
    return reduce(operator.getitem, filter(None, path.split("/")), tree)


# How Flax's linear modules are made to use `carry`.


@contextmanager
def _carried_by(feedback: Feedback) -> Iterator[None]:
    """Inside, Flax's linear modules carry the error back by `feedback`. A module without a B carries none."""

    def intercept(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if not is_linear_map(context) or module.name == CARRIED:
            return call(*args, **kwargs)
        path = "/".join(module.path)
        x, *others = args or (kwargs.pop("inputs"),)
        if path not in feedback:
            return call(stop_gradient(x), *others, **kwargs)
        linear, variables = module.unbind()
        linear = linear.clone(name=CARRIED)  # its own call, below, must not be intercepted again
        promotion = jax.config.jax_numpy_dtype_promotion  # type: ignore[attr-defined]

        def apply(weights: Tree, x: jax.Array) -> jax.Array:
            with jax.numpy_dtype_promotion(promotion):  # also on the way back, where mixed precision has ended
                return linear.apply({"params": weights}, x, *others, **kwargs)  # type: ignore[return-value]

        weights = variables["params"]  # in mixed precision these are rounded, and B is rounded likewise
        return carry(apply, weights, feedback[path].astype(weights["kernel"].dtype), x)

    with nn.intercept_methods(intercept):
        yield


def is_linear_map(context: nn.module.InterceptorContext) -> bool:
    """Whether a call, intercepted by Flax, is that of a linear module."""
    return context.method_name == "__call__" and isinstance(context.module, LINEAR)


# Which linear modules need a B.


class Map(NamedTuple):
    """A call of a linear module: where it is, the module without its weights, and what it was applied to."""

    layer: int
    path: str
    module: Any
    x: jax.ShapeDtypeStruct
    others: tuple[tuple[Any, ...], dict[str, Any]]  # further arguments, as of `flax.linen.Einsum`

    def apply(self, kernel: jax.Array, x: jax.Array) -> jax.Array:
        """The map with this kernel and without a bias."""
        others, options = self.others
        return self.module.clone(use_bias=False).apply({"params": {"kernel": kernel}}, x, *others, **options)


def _maps_with_feedback(layers: Layers, weights: tuple[Tree, ...], stats: Stats, x: jax.Array) -> list[Map]:
    """The linear modules that need a B, in the order of their calls: all but a first one that nothing learns below."""
    calls: list[Map] = []
    # Of each layer, the shapes of the weights that belong to a linear module, by its path and their name.
    shapes: list[dict[tuple[str, str], tuple[int, ...]]] = [{} for _ in layers]

    def note(layer: int, call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module, path = context.module, "/".join(context.module.path)
        if is_linear_map(context):
            linear, variables = module.unbind()
            inputs, *others = args or (kwargs["inputs"],)
            options = {name: value for name, value in kwargs.items() if name != "inputs"}
            shape = jax.ShapeDtypeStruct(inputs.shape, inputs.dtype)
            calls.append(Map(layer, path, linear, shape, (tuple(others), options)))
            shapes[layer][path, "kernel"] = variables["params"]["kernel"].shape
        if isinstance(module, nn.Embed) and context.method_name == "__call__":
            shapes[layer][path, "embedding"] = module.num_embeddings, module.features
        return call(*args, **kwargs)

    a = x
    for i, layer in enumerate(layers):
        with nn.intercept_methods(partial(note, i)):
            a, _ = jax.eval_shape(partial(apply_layer, layer), weights[i], stats[i], a)
        _check_covered(i, weights[i], shapes[i])
    maps = {(call.layer, call.path): call for call in calls}
    if calls:
        first = calls[0]
        below = slice(first.layer + 1)
        if not _first_map_reads_weights(layers[below], weights[below], stats[below], x):
            del maps[first.layer, first.path]
    return list(maps.values())


def _first_map_reads_weights(layers: Layers, weights: tuple[Tree, ...], stats: Stats, x: jax.Array) -> bool:
    """Whether the input of the first linear module, in any of its calls, depends on weights."""
    inputs: dict[tuple[int, str], list[jax.Array]] = {}

    def note(layer: int, call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if is_linear_map(context):
            name = layer, "/".join(context.module.path)
            inputs.setdefault(name, []).append(args[0] if args else kwargs["inputs"])
        return call(*args, **kwargs)

    def inputs_of_the_first(weights: tuple[Tree, ...], stats: Stats, a: jax.Array) -> list[jax.Array]:
        for i, layer in enumerate(layers):
            with nn.intercept_methods(partial(note, i)):
                a, _ = apply_layer(layer, weights[i], stats[i], a)
        return next(iter(inputs.values()))

    try:
        closed = jax.make_jaxpr(inputs_of_the_first)(weights, stats, x)
    except jax.errors.UnexpectedTracerError:
        return True  # as below, in versions of JAX that notice it
    if any(isinstance(constant, jax.core.Tracer) for constant in closed.consts):
        return True  # of the loop of a recurrent module, whose later inputs depend on its own weights
    jaxpr = closed.jaxpr
    needed = {id(v) for v in jaxpr.outvars}
    for equation in reversed(jaxpr.eqns):
        if any(id(v) in needed for v in equation.outvars):
            needed |= {id(v) for v in equation.invars}
    return any(id(v) in needed for v in jaxpr.invars[: len(jax.tree.leaves(weights))])


def _check_covered(i: int, weights: Tree, shapes: dict[tuple[str, str], tuple[int, ...]]) -> None:
    """Refuse a layer with other kernels, through which the true gradient would go: backpropagation in disguise."""
    leaves = zip(jax.tree_util.tree_leaves_with_path(weights), jax.tree.leaves(kernels(weights)), strict=True)
    for (path, leaf), is_kernel in leaves:
        *module, name = (part.key for part in path)
        if is_kernel and shapes.get(("/".join(module), name)) != leaf.shape:
            raise ValueError(
                f"net.layers[{i}] has weights {'/'.join((*module, name))!r} outside Flax's linear modules, through "
                f"which feedback alignment cannot carry an error; use {', '.join(m.__name__ for m in LINEAR)}"
            )
