"""Diagnostics: angles to backpropagation's updates, measured locality, numbers of parameters, distances of classes."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxlocal import checks
from jaxlocal.costs import Cost, CostTable, costs
from jaxlocal.layers import flat
from jaxlocal.network import Tree, mean_of_tokens, units, vocabulary
from jaxlocal.programs import compiled
from jaxlocal.rule import Batch, Lesson, Params, Rule
from jaxlocal.tokens import each_target

__all__ = [
    "ClassDistances",
    "Cost",
    "CostTable",
    "ParameterCounts",
    "activations",
    "alignment",
    "angle",
    "class_distances",
    "costs",
    "feedback_alignment",
    "layer_outputs",
    "local_losses",
    "locality",
    "parameter_counts",
]


class ParameterCounts(NamedTuple):
    """Numbers of parameters: those used in prediction, and those that only help in training."""

    effective: int
    affiliated: int


class ClassDistances(NamedTuple):
    """Mean distance between the classes' centroids, mean distance between two examples of a class, and their ratio."""

    inter: jax.Array
    intra: jax.Array
    ratio: jax.Array


def parameter_counts(rule: Rule, params: Params) -> ParameterCounts:
    """The number of parameters used in prediction, and of those (encoders, feedback, inverses …) that help in training.

    Example:
      >>> rule = jl.rules.dfa(jl.models.mlp(hidden=(16,), classes=10), optax.adam(1e-3))
      >>> params = rule.init(jax.random.key(0), (jnp.ones((4, 64)), jnp.ones((4, 10))))
      >>> jl.diagnostics.parameter_counts(rule, params)
      ParameterCounts(effective=1210, affiliated=160)
    """
    checks.some_params(params)
    everything = sum(leaf.size for c in params.components for leaf in jax.tree.leaves(c.weights))
    effective = sum(leaf.size for leaf in jax.tree.leaves(rule.effective(params)))
    return ParameterCounts(effective, everything - effective)


def local_losses(rule: Rule, params: Params, batch: Batch) -> tuple[dict[str, jax.Array], ...]:
    """The terms of each component's local objective on a batch. Nothing is updated."""
    _check_batch("local_losses", rule, params, batch)
    return _losses(rule, params, batch)


@compiled(static=1)
def _losses(rule: Rule, params: Params, batch: Batch) -> tuple[dict[str, jax.Array], ...]:
    return tuple(lesson.losses for lesson in rule.lessons(params, batch))


def locality(rule: Rule, params: Params, batch: Batch) -> dict[str, np.ndarray]:
    """Measure on whose weights the learning of each component depends, to compare with `rule.locality`.

    The weights of one component and one role are multiplied by 1.2, and noise of standard deviation 0.1 is added. The
    components whose gradients then change depend on these weights. Optimizers are not involved.

    A dependence can be hidden: units that are always zero, as ReLU's can be, pass on nothing. So measure with
    parameters that have learned a little, or with more than one key.

    Args:
      rule: the rule.
      params: its parameters, after a step or more: at the start all biases are zero.
      batch: the batch.

    Returns:
      For each role a mask (n, n): whether the lesson of component i depends on the weights of component j. Where
      component j has no weights of the role, the entry is false.

    Example:
      >>> rule = jl.rules.al(jl.models.mlp(hidden=(16, 8)), optax.adam(1e-3))
      >>> batch = tuple(a[:32] for a in jl.data.digits().train)
      >>> params = jax.jit(rule.update)(rule.init(jax.random.key(0), batch), batch)
      >>> jl.diagnostics.locality(rule, params, batch)["forward"].tolist()
      [[True, False], [True, True]]
      >>> rule.locality("forward").tolist()
      [[True, False], [True, True]]
    """
    _check_batch("locality", rule, params, batch)
    lessons = jax.jit(rule.lessons)
    before = lessons(params, batch)
    if not all(np.isfinite(leaf).all() for lesson in before for leaf in jax.tree.leaves(lesson.grads)):
        raise ValueError(
            "params: the gradients for this batch are NaN or infinite, so it cannot be seen what they depend on; "
            "measure with parameters that have not diverged"
        )
    n = len(params.components)
    masks: dict[str, np.ndarray] = {}
    for j, component in enumerate(params.components):
        for role, weights in component.weights.items():
            mask = masks.setdefault(role, np.zeros((n, n), bool))
            if jax.tree.leaves(weights):
                after = lessons(_changed(params, j, role), batch)
                mask[:, j] = [_differ(*pair) for pair in zip(before, after, strict=True)]
    return masks


def _changed(params: Params, j: int, role: str) -> Params:
    """The parameters with other weights of one role in component j."""
    component = params.components[j]
    other = partial(_other, np.random.default_rng(j))
    weights = {**component.weights, role: jax.tree.map(other, component.weights[role])}
    components = (*params.components[:j], replace(component, weights=weights), *params.components[j + 1 :])
    return replace(params, components=components)


def _other(noise: np.random.Generator, leaf: jax.Array) -> jax.Array:
    """Another array of the same shape and type."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_other(noise, jax.random.key_data(leaf)))
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return leaf ^ jnp.asarray(1, leaf.dtype)  # every whole number becomes a neighbour, and true becomes false
    return jnp.asarray(1.2 * np.asarray(leaf) + 0.1 * noise.normal(size=leaf.shape), leaf.dtype)


def _differ(lesson: Lesson, other: Lesson) -> bool:
    """Whether the gradients differ by more than rounding, which is about a millionth of the largest one."""
    pairs = zip(*(map(np.asarray, jax.tree.leaves(grads)) for grads in (lesson.grads, other.grads)), strict=True)
    return not all(np.max(np.abs(a - b)) <= 1e-4 * np.max(np.abs(a)) for a, b in pairs if a.size)  # also if NaN


def angle(a: Tree, b: Tree) -> jax.Array:
    """The angle between two trees of arrays, in degrees.

    Example:
      >>> round(float(jl.diagnostics.angle(jnp.array([1.0, 0.0]), jnp.array([1.0, 1.0]))))
      45
    """
    one, other = _direction(a), _direction(b)
    if one.shape != other.shape:
        raise ValueError(f"a has {one.size} numbers and b has {other.size}; give both equally many")
    cosine = jnp.vdot(one, other, precision=jax.lax.Precision.HIGHEST)
    return jnp.degrees(jnp.arccos(jnp.clip(cosine, -1, 1)))


def _direction(tree: Tree) -> jax.Array:
    """All numbers as one vector of length one; NaN if all are zero or there are none."""
    leaves = [jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)] or [jnp.zeros(1)]
    vector = jnp.concatenate(
        [leaf.astype(jnp.float64 if leaf.dtype == jnp.float64 else jnp.float32) for leaf in leaves]
    )
    vector = vector / jnp.max(jnp.abs(vector))  # or squares could be too large or too small for the type
    return vector / jnp.linalg.norm(vector)


def alignment(rule: Rule, params: Params, batch: Batch) -> jax.Array:
    """The angle between the rule's gradient and backpropagation's, for the forward weights of each layer.

    Backpropagation's gradient is that of the network's loss of `predict`, at the same weights and with the batch's own
    statistics. Optimizers are not involved. If the angle is below 90 degrees, the rule's gradient decreases the loss.
    Layers without weights have no angle: NaN. With dropout, the two gradients use different masks. If the network's
    loss is the cross entropy, predictions are treated as logits. Those of Associated Learning with the paper's codes
    are not.

    Args:
      rule: the rule.
      params: its parameters.
      batch: the batch for both gradients.

    Returns:
      Degrees, one for each layer that the rule trains: `al` and `ff` do without the head.

    Example:
      >>> rule = jl.rules.bp(jl.models.mlp(hidden=(16,), classes=2), optax.adam(1e-3))
      >>> batch = jax.random.normal(jax.random.key(0), (4, 8)), jax.nn.one_hot(jnp.array([0, 1, 1, 0]), 2)
      >>> params = rule.init(jax.random.key(0), batch)
      >>> bool(jnp.all(jl.diagnostics.alignment(rule, params, batch) < 0.1))
      True
    """
    _check_batch("alignment", rule, params, batch)
    return _alignment(rule, params, batch)


@compiled(static=1)
def _alignment(rule: Rule, params: Params, batch: Batch) -> jax.Array:
    x, y = batch

    def loss(forward: tuple[tuple[Tree, ...], ...]) -> jax.Array:
        components = tuple(
            replace(component, weights={**component.weights, "forward": weights})
            for component, weights in zip(params.components, forward, strict=True)
        )
        key = jax.random.fold_in(params.components[0].key, params.components[0].count)
        return rule.net.loss.mean(rule.predict(replace(params, components=components), x, key), y)

    backprop = jax.grad(loss)(tuple(component.weights["forward"] for component in params.components))
    local = tuple(lesson.grads["forward"] for lesson in rule.lessons(params, batch))
    layers = zip(sum(local, ()), sum(backprop, ()), strict=True)
    return jnp.stack([angle(ours, theirs) for ours, theirs in layers])


def feedback_alignment(rule: Rule, params: Params, x: jax.Array) -> jax.Array:
    """The angle between a_l B_lᵀ and the output's pre-activation for each block, for rules with direct feedback.

    It measures how well the transposed feedback B_l replaces all layers above block l. If each token has a target, it
    is measured for each token.

    Args:
      rule: a rule with feedback from the output to each block: `dfa`, `drtp` or `dkp`.
      params: its parameters.
      x: (N, …).

    Returns:
      Degrees, the mean over the examples or tokens, one for each block.

    Reference:
      Learning the Connections in Direct Feedback Alignment. Figure 2.
    """
    _check_examples("feedback_alignment", rule, params, x)
    return _feedback_alignment(rule, params, x)


@compiled(static=1)
def _feedback_alignment(rule: Rule, params: Params, x: jax.Array) -> jax.Array:
    *hidden, scores = activations(rule, params, x)
    pairs = [(flat(a), z) for a, z in (each_target(a, scores) for a in hidden)]
    direct = [c.weights["feedback"] for c in params.components if "feedback" in c.weights]
    if [getattr(feedback, "shape", None) for feedback in direct] != [(units(z), units(a)) for a, z in pairs]:
        raise ValueError("rule: has no feedback from the output to each block; pass jl.rules.dfa, drtp or dkp")
    replaced = [(a @ feedback.T, z) for (a, z), feedback in zip(pairs, direct, strict=True)]
    return jnp.stack([jnp.nanmean(jax.vmap(angle)(a, z)) for a, z in replaced])


def activations(rule: Rule, params: Params, x: jax.Array) -> tuple[jax.Array, ...]:
    """The output of each block, then the scores, as in prediction.

    Forward-Forward passes each example once for each class: there the first axis of a block's output holds all of them.
    """
    _check_examples("activations", rule, params, x)
    outputs, scores = _recorded(rule, params, x)
    return *outputs[: len(rule.net.blocks)], scores


@compiled(static=1)
def _recorded(rule: Rule, params: Params, x: jax.Array) -> tuple[list[jax.Array], jax.Array]:
    """The outputs of all layers that `predict` calls, in this order, and the scores.

    A layer is a module that is not inside another one. The parameters are checked before: the first check calls the
    layers, too.
    """
    outputs = []

    def record(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        output = call(*args, **kwargs)
        if context.method_name == "__call__" and not context.module.path:
            outputs.append(output)
        return output

    with nn.intercept_methods(record):
        return outputs, rule.predict(params, x)


def layer_outputs(rule: Rule, params: Params, x: jax.Array) -> dict[str, jax.Array]:
    """The outputs of all layers by name, which `jl.plots.tsne` and `jl.plots.distances` draw.

    These are the raw data, the output of each block, and the network's output. The prediction of Associated Learning
    continues from the last block through a bridge and decoders, whose outputs are included. Of sequences it is the mean
    over the tokens, and raw token ids are left out. If each token has a target, the outputs of bridge and decoders are
    those of the tokens, (N, T, …). Forward-Forward has one for each example and class, (N, C, …).

    Args:
      rule: the rule.
      params: its parameters.
      x: (N, …).

    Returns:
      The outputs, (N, …) each, in order.

    Example:
      >>> x, y = jl.data.digits().test
      >>> rule = jl.rules.al(jl.models.mlp(hidden=(16, 8)), optax.adam(1e-3))
      >>> outputs = jl.diagnostics.layer_outputs(rule, rule.init(jax.random.key(0), (x, y)), x)
      >>> {name: output.shape[1:] for name, output in outputs.items()}
      {'raw data': (8, 8, 1), 'block 1': (16,), 'block 2': (8,), 'bridge': (64,), 'decoder 2': (64,), 'output': (10,)}
    """
    _check_examples("layer_outputs", rule, params, x)
    outputs, scores = _recorded(rule, params, x)
    read = [mean_of_tokens(output) for output in outputs]
    read = [output if len(output) == len(x) else output.reshape(len(x), -1, output.shape[-1]) for output in read]
    blocks = len(rule.net.blocks)
    decoders = range(len(params.components), 1, -1)
    names = (*(f"block {i + 1}" for i in range(blocks)), "bridge", *(f"decoder {i}" for i in decoders))
    # Behind the blocks the last output is the network's own. Without a bridge the names end with the blocks.
    inner = read if len(read) == blocks else read[:-1]
    raw = {"raw data": x} if vocabulary(rule.net) is None else {}
    return {**raw, **dict(zip(names, inner, strict=False)), "output": scores}


def class_distances(features: jax.Array, y: jax.Array) -> ClassDistances:
    """How far the classes lie apart, and how wide they are: the Associated Learning paper's Table 7.

    Args:
      features: (N, …); an example may have any shape.
      y: (N, C), one-hot. Each class needs two examples or more.

    Returns:
      The distances.

    Example:
      >>> features = jnp.array([[0.0, 0.0], [0.0, 2.0], [3.0, 0.0], [3.0, 2.0]])
      >>> distances = jl.diagnostics.class_distances(features, jax.nn.one_hot(jnp.array([0, 0, 1, 1]), 2))
      >>> float(distances.inter), float(distances.intra), float(distances.ratio)
      (3.0, 2.0, 1.5)
    """
    checks.features("features", features)
    checks.features("y", y)
    if y.ndim > 2:
        raise ValueError(f"y has shape {y.shape}, but must be (N, C); give each token or place a row of its own")
    if len(features) != len(y):
        raise ValueError(f"features are of {len(features)} examples and y of {len(y)}; give both the same examples")
    features = flat(jnp.asarray(features, jnp.float32))
    labels = np.asarray(y).argmax(-1)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    checks.comparable_classes("y", [len(rows) for rows in members])
    # Each class is padded to the size of the largest, so that one compiled program measures them all.
    size = max(map(len, members))
    intra = jnp.stack([_mean_distance(features[np.resize(rows, size)], len(rows)) for rows in members]).mean()
    inter = _mean_distance(
        jnp.stack([jnp.mean(features, 0, where=(labels == labels[rows[0]])[:, None]) for rows in members]), len(members)
    )
    return ClassDistances(inter, intra, inter / intra)


def _mean_distance(points: jax.Array, count: int) -> jax.Array:
    """The mean distance between two different points among the first `count`."""
    return _sum_of_distances(points, np.arange(len(points)) < count) / (count * (count - 1))


@jax.jit
def _sum_of_distances(points: jax.Array, among: jax.Array) -> jax.Array:
    """The sum of the distances between all pairs, for one point at a time, so that no n×n×d array is needed."""

    def from_one(point: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sqrt(jnp.sum(jnp.square(points - point[None]), 1)), where=among)

    return jnp.sum(jax.lax.map(from_one, points), where=among)


# Arguments are checked before anything is compiled: JAX's own messages about bad arrays say less.


def _check_batch(function: str, rule: Rule, params: Params, batch: Batch) -> None:
    checks.one_run(function, rule, params)
    rule.check(params)
    checks.batch(batch, rule.net, params.shapes)


def _check_examples(function: str, rule: Rule, params: Params, x: jax.Array) -> None:
    checks.one_run(function, rule, params)
    rule.check(params)
    checks.examples("x", x, params.shapes[0], vocabulary(rule.net))
