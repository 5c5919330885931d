"""Feedback alignment and Kolen-Pollack learning: the error goes back through other weights than it came by."""

import operator
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial, reduce
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import optax
from jax.lax import stop_gradient

from jaxlocal import checks
from jaxlocal.checks import learning_rule
from jaxlocal.decay import decayed, kernels, shrunk
from jaxlocal.locality import everywhere
from jaxlocal.make import Settle, make_rule
from jaxlocal.network import Network, Tree, apply_layer
from jaxlocal.parts import init_forward
from jaxlocal.rule import Batch, Component, Lesson, Message, Part, Rule, Weights

Feedback = dict[str, jax.Array]  # of one layer: the path of a linear module inside it -> its B, laid out as its W

Linear = Callable[[Tree, jax.Array], jax.Array]  # (weights, x) -> y, linear in x but for a bias

LINEAR = (nn.Dense, nn.DenseGeneral, nn.Einsum, nn.Conv, nn.ConvLocal, nn.ConvTranspose)


@learning_rule
def fa(
    net: Network,
    tx: optax.GradientTransformation,
    *,
    feedback_init: nn.initializers.Initializer | None = None,
    frozen: Collection[int] = (),
) -> Rule:
    r"""Feedback alignment: backpropagation with fixed random weights B in place of the transposed W.

    .. math::
        \delta_l = \delta_{l+1} B_{l+1} \odot f'(z_l), \qquad
        \Delta W_l = -\eta\, a_{l-1}^\top \delta_l

    B_l (n_l, n_{l-1}) is stored transposed, in the layout of W_l, for dense layers and convolutions of any kind alike;
    so with the stored B equal to W this is backpropagation. Everything else (activations, batch norm, pooling,
    shortcuts) is differentiated exactly. The first linear map has no B, if nothing that learns lies before it.

    Args:
      net: the network; its blocks may be any Flax modules whose weights are in Flax's own linear modules.
      tx: the optimizer of the forward weights.
      feedback_init: the initialiser of B; by default each linear map's own (Kaiming where W has Kaiming).
      frozen: numbers of the layers that keep their weights.

    Returns:
      The rule.

    Example:
      >>> net = jl.models.mlp(hidden=(16, 16), classes=10)
      >>> batch = jnp.ones((4, 64)), jax.nn.one_hot(jnp.arange(4), 10)
      >>> rule = jl.rules.fa(net, optax.adam(1e-3))
      >>> params = rule.init(jax.random.key(0), batch)
      >>> jax.tree.map(jnp.shape, params.components[0].weights["feedback"])
      ({}, {'linear': (16, 16)}, {'linear': (16, 10)})

    Reference:
      Lillicrap, Cownden, Tweed, Akerman. Random synaptic feedback weights support error backpropagation for deep
      learning. Nature Communications 7, 2016. Notation: Learning the connections in direct feedback alignment, eq. 5.
    """
    return _carried_back(net, {"forward": tx}, feedback_init, frozen)


@learning_rule
def kp(
    net: Network,
    tx: optax.GradientTransformation,
    *,
    feedback_tx: optax.GradientTransformation | None = None,
    decay: float = 1e-6,
    feedback_decay: float | None = None,
    feedback_init: nn.initializers.Initializer | None = None,
    frozen: Collection[int] = (),
) -> Rule:
    r"""Kolen-Pollack learning: feedback alignment whose B takes the transposed update of W, both with decay.

    .. math::
        \delta_l &= \delta_{l+1} B_{l+1} \odot f'(z_l) \\
        \Delta W_l &= -\eta_W\, a_{l-1}^\top \delta_l - \lambda W_l, \qquad
        \Delta B_l = -\eta_B\, \delta_l^\top a_{l-1} - \lambda B_l

    so that with the same optimizer W - Bᵀ shrinks by 1 - λ a step. B is stored in the layout of W, as in `fa`. The
    decay is the paper's: it is not multiplied by the learning rate, and biases and scales have none.

    Args:
      net: the network, as for `fa`.
      tx: the optimizer of the forward weights.
      feedback_tx: the optimizer of B; by default B takes the very moves of W, whose gradient it has, so that one
        optimizer state serves both.
      decay: λ of the forward weights.
      feedback_decay: λ of B; by default as `decay`.
      feedback_init: the initialiser of B; by default each linear map's own.
      frozen: numbers of the layers that keep their weights and their B.

    Returns:
      The rule.

    Example:
      >>> net = jl.models.mlp(hidden=(16, 16), classes=10)
      >>> batch = jnp.ones((4, 64)), jax.nn.one_hot(jnp.arange(4), 10)
      >>> rule = jl.rules.kp(net, optax.adam(1e-3), decay=1e-4)
      >>> params = rule.update(rule.init(jax.random.key(0), batch), batch)

    Reference:
      Akrout, Wilson, Humphreys, Lillicrap, Tweed. Deep learning without weight transport. NeurIPS 2019.
      Notation: Learning the connections in direct feedback alignment, eq. 5 and 6.
    """
    feedback_decay = decay if feedback_decay is None else feedback_decay
    checks.share("decay", decay)
    checks.share("feedback_decay", feedback_decay)
    if feedback_tx is not None:
        txs = {"forward": decayed(tx, decay), "feedback": decayed(feedback_tx, feedback_decay)}
        return _carried_back(net, txs, feedback_init, frozen)

    def settle(weights: Weights, moves: Weights) -> Weights:
        """B moves as its W does; then both decay."""
        as_forward = tuple(
            feedback and {path: _inside(layer, path)["kernel"] for path in feedback}
            for layer, feedback in zip(moves["forward"], weights["feedback"], strict=True)
        )
        return {
            "forward": shrunk(moves["forward"], weights["forward"], decay),
            "feedback": shrunk(as_forward, weights["feedback"], feedback_decay),
        }

    return _carried_back(net, {"forward": tx}, feedback_init, frozen, settle)


def _carried_back(
    net: Network,
    txs: dict[str, optax.GradientTransformation],
    feedback_init: nn.initializers.Initializer | None,
    frozen: Collection[int],
    settle: Settle | None = None,
) -> Rule:
    """Backpropagation with the error carried by B through every linear map. The gradient of B is that of W."""
    if feedback_init is not None:
        checks.initializer("feedback_init", feedback_init)

    def init(key: jax.Array, message: Message) -> tuple[Weights, tuple[Tree, ...], Message]:
        forward_key, feedback_key = jax.random.split(key)
        weights, stats, top = init_forward(net.layers)(forward_key, message)
        maps = _linear_maps(net, weights["forward"], stats, message[0])
        feedback: tuple[Feedback, ...] = tuple({} for _ in net.layers)
        for one, b_key in zip(maps, jax.random.split(feedback_key, len(maps)), strict=True):
            feedback[one.layer][one.path] = (feedback_init or one.kernel_init)(b_key, one.shape, one.dtype)
        weights["feedback"] = feedback
        return weights, stats, top

    def objective(weights: Weights, stats: Tree, batch: Batch, key: jax.Array) -> tuple[jax.Array, Tree]:
        a, y = batch
        new_stats = []
        for i, layer in enumerate(net.layers):
            with carried_by(weights["feedback"][i]):
                a, s = apply_layer(layer, weights["forward"][i], stats[i], a, jax.random.fold_in(key, i))
            new_stats.append(s)
        return net.loss.mean(a, y), tuple(new_stats)

    def teach(components: tuple[Component, ...], batch: Batch, keys: tuple[jax.Array, ...]) -> tuple[Lesson, ...]:
        (network,), (key,) = components, keys
        (loss, stats), grads = jax.value_and_grad(objective, has_aux=True)(network.weights, network.stats, batch, key)
        return (Lesson(grads, stats, {"task": loss}),)

    parts = (Part(tuple(range(len(net.layers))), init),)
    locality = {"forward": everywhere(1), "feedback": everywhere(1)}
    return make_rule(net, parts, txs, teach, locality=locality, frozen=frozen, settle=settle)


def _inside(tree: Tree, path: str) -> Tree:
    """What a layer's tree has of the module at this path, names with slashes in between."""
    return reduce(operator.getitem, filter(None, path.split("/")), tree)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def carry(linear: Linear, weights: Tree, feedback: jax.Array, x: jax.Array) -> jax.Array:
    """`linear(weights, x)`, but the error comes back through the kernel `feedback`, whose gradient is the kernel's."""
    return linear(weights, x)


def _carry_forward(linear: Linear, weights: Tree, feedback: jax.Array, x: jax.Array) -> tuple[jax.Array, Any]:
    return linear(weights, x), (weights, feedback, x)


def _carry_back(linear: Linear, residuals: Any, error: jax.Array) -> tuple[Tree, jax.Array, jax.Array]:
    weights, feedback, x = residuals
    (grads,) = jax.vjp(lambda w: linear(w, x), weights)[1](error)
    (error_below,) = jax.vjp(lambda x: linear({**weights, "kernel": feedback}, x), x)[1](error)
    return grads, grads["kernel"], error_below


carry.defvjp(_carry_forward, _carry_back)


@contextmanager
def carried_by(feedback: Feedback) -> Iterator[None]:
    """Inside, Flax's linear modules carry the error back by `feedback`; those without a B carry none."""

    def intercept(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if not _is_linear_map(context) or module.name == "carried":
            return call(*args, **kwargs)
        path = "/".join(module.path)
        x, *others = args or (kwargs.pop("inputs"),)
        if path not in feedback:
            return call(stop_gradient(x), *others, **kwargs)
        linear, variables = module.unbind()
        linear = linear.clone(name="carried")  # so that its own call, below, is not intercepted again

        def apply(weights: Tree, x: jax.Array) -> jax.Array:
            return linear.apply({"params": weights}, x, *others, **kwargs)  # type: ignore[return-value]

        weights = variables["params"]  # which may be rounded, where layers compute in fewer bits
        return carry(apply, weights, feedback[path].astype(weights["kernel"].dtype), x)

    with nn.intercept_methods(intercept):
        yield


def _is_linear_map(context: nn.module.InterceptorContext) -> bool:
    return context.method_name == "__call__" and isinstance(context.module, LINEAR)


class _Map(NamedTuple):
    """A call of a linear module, and what its kernel is like."""

    layer: int
    path: str
    kernel_init: Any
    shape: tuple[int, ...]
    dtype: Any


def _linear_maps(net: Network, weights: tuple[Tree, ...], stats: tuple[Tree, ...], x: jax.Array) -> list[_Map]:
    """The linear modules that need a B, in the order of their calls."""
    calls: list[_Map] = []

    def note(layer: int, call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if _is_linear_map(context):
            kernel = module.variables["params"]["kernel"]
            calls.append(_Map(layer, "/".join(module.path), module.kernel_init, kernel.shape, kernel.dtype))
        return call(*args, **kwargs)

    a = x
    for i, layer in enumerate(net.layers):
        with nn.intercept_methods(partial(note, i)):
            a, _ = jax.eval_shape(partial(apply_layer, layer), weights[i], stats[i], a)
        _check_covered(i, weights[i], {call.path: call.shape for call in calls if call.layer == i})
    maps = {(call.layer, call.path): call for call in calls}
    if calls and not _reads_weights(net, weights, stats, x):
        del maps[calls[0].layer, calls[0].path]
    return list(maps.values())


def _reads_weights(net: Network, weights: tuple[Tree, ...], stats: tuple[Tree, ...], x: jax.Array) -> bool:
    """Whether any weights have a part in what a call of the first linear module is given."""
    inputs: dict[tuple[int, str], list[jax.Array]] = {}

    def note(layer: int, call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if _is_linear_map(context):
            name = layer, "/".join(context.module.path)
            inputs.setdefault(name, []).append(args[0] if args else kwargs["inputs"])
        return call(*args, **kwargs)

    def of_the_first(weights: tuple[Tree, ...]) -> list[jax.Array]:
        a = x
        for i, layer in enumerate(net.layers):
            with nn.intercept_methods(partial(note, i)):
                a, _ = apply_layer(layer, weights[i], stats[i], a)
        return next(iter(inputs.values()))

    jaxpr = jax.make_jaxpr(of_the_first)(weights).jaxpr
    needed = {id(v) for v in jaxpr.outvars}
    for equation in reversed(jaxpr.eqns):
        if any(id(v) in needed for v in equation.outvars):
            needed |= {id(v) for v in equation.invars}
    return any(id(v) in needed for v in jaxpr.invars)


def _check_covered(i: int, weights: Tree, shapes: dict[str, tuple[int, ...]]) -> None:
    """Refuses a layer whose weights would be crossed by the true gradient, which is backpropagation in disguise."""
    leaves = zip(jax.tree_util.tree_leaves_with_path(weights), jax.tree.leaves(kernels(weights)), strict=True)
    for (path, leaf), is_kernel in leaves:
        *module, name = (part.key for part in path)
        if is_kernel and not (name == "kernel" and shapes.get("/".join(module)) == leaf.shape):
            raise ValueError(
                f"net.layers[{i}] has weights {'/'.join((*module, name))!r} outside Flax's linear modules, through "
                f"which feedback alignment cannot carry an error; use {', '.join(m.__name__ for m in LINEAR)}"
            )
