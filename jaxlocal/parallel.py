"""Transforms of rules: many runs in one program, batches split over devices, lower precision."""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.lax import with_sharding_constraint
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxlocal import checks, memory
from jaxlocal.fast.shards import split_over
from jaxlocal.network import Network, computing_in, vocabulary
from jaxlocal.pipeline.devices import automatic
from jaxlocal.rule import Batch, Params, Placement, Rule
from jaxlocal.tokens import check_padding

MOST = 10**6  # members of an ensemble
MANY = 1000  # members; from this number on, `init` first asks whether there is memory for them
Out = TypeVar("Out")


def ensemble(rule: Rule, n: int) -> Rule:
    """n independent runs of a rule as one program: every array of params has a first axis, the members.

    Member i starts from the i-th key of `jax.random.split(key, n)`, or from `keys[i]` if you pass n keys to `init`.
    All members learn from the same batch (B, …); a batch (n, B, …) gives each its own. Losses have the shape
    (n, components), scores the shape (n, B, C).

    Args:
      rule: the rule.
      n: the number of members.

    Returns:
      The rule of all members together.

    Example:
      >>> many = jl.ensemble(jl.rules.dfa(jl.models.mlp(hidden=(16,), classes=10), optax.adam(1e-3)), 5)
      >>> batch = jnp.ones((4, 64)), jax.nn.one_hot(jnp.arange(4), 10)
      >>> params, info = jax.jit(many.step)(many.init(jax.random.key(0), batch), batch)
      >>> info.losses.shape, many.predict(params, batch[0]).shape
      ((5, 2), (5, 4, 10))
    """
    checks.single_rule("ensemble", rule)
    checks.positive_int("n", n)

    def member_keys(key: jax.Array) -> jax.Array:
        checks.keys(key)
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        keys = jax.random.split(key, n) if key.ndim == (0 if typed else 1) else key
        if len(keys) != n:
            raise ValueError(f"key: {len(keys)} keys for an ensemble of {n}; give one key, or {n}")
        return keys

    def init(key: jax.Array, batch: Batch) -> Params:
        checks.batch(batch, rule.net)
        if n > MOST:
            raise ValueError(f"n={n}: must be at most {MOST}")
        keys = member_keys(key)
        example = jax.tree.map(lambda leaf: jnp.asarray(leaf[:2]), batch)  # only the shapes matter
        if n > MANY:
            needed = n * memory.needed(jax.eval_shape(rule.init, keys[0], example))
            if needed > (there := memory.available()):
                raise ValueError(
                    f"n={n}: the members' parameters would take {memory.in_words(needed)}, and there are "
                    f"{memory.in_words(there)} of memory; take fewer"
                )
        return jax.vmap(rule.init, in_axes=(0, None))(keys, example)

    def of_each(function: Callable[[Params, Batch], Out]) -> Callable[[Params, Batch], Out]:
        def of_all(params: Params, batch: Batch) -> Out:
            checks.members(params, n)
            return jax.vmap(function, in_axes=(0, _members_axis(rule.net, params, batch, n)))(params, batch)

        return of_all

    def check(params: Params) -> None:
        checks.members(params, n)
        jax.eval_shape(jax.vmap(rule.check), params)

    def predict(params: Params, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        checks.members(params, n)
        keys = None if key is None else member_keys(key)
        return jax.vmap(rule.predict, in_axes=(0, None, 0))(params, x, keys)

    return rule._replace(
        init=init,
        update=of_each(rule.update),
        step=of_each(rule.step),
        lessons=of_each(rule.lessons),
        predict=predict,
        check=check,
        learn=None,
        placement=rule.placement._replace(members=n),
    )


def _members_axis(net: Network, params: Params, batch: Batch, n: int) -> int | None:
    """0 if the batch has an axis of members, None if all members learn from the same batch."""
    checks.pair_of_arrays("batch", batch)
    shapes = getattr(params, "shapes", None)
    if not shapes or batch[0].ndim != len(shapes[0]) + 2:
        checks.batch(batch, net)
        return None
    for name, leaf, shape in zip("xy", batch, shapes, strict=True):
        if leaf.ndim != len(shape) + 2 or leaf.shape[0] != n:
            raise ValueError(
                f"batch: {name} has shape {leaf.shape}, but an ensemble of {n} takes one batch (B, …) for all, or a "
                f"batch for each, ({n}, B, …), of x and of y"
            )
        checks.finite("batch", name, leaf)
    checks.token_ids("batch: x", batch[0], vocabulary(net))
    check_padding("batch", *batch, net.layers[0])
    return 0


def data_parallel(rule: Rule, mesh: Mesh, axis: str = "data") -> Rule:
    """A rule whose batches are split over one axis of a mesh of devices, with the parameters on every device.

    The results are those of the rule itself: gradients and batch statistics are of the whole batch. The compiler
    divides the work, and sums over the devices where examples are summed. A forward-only rule stays forward-only:
    `pipelined` takes it, and splits the batches over the axes of its mesh other than the components'.

    Args:
      rule: the rule.
      mesh: the devices, such as `jl.pipeline.mesh(data=4)`.
      axis: the axis of the mesh over which the examples are split; a batch size must be a multiple of its size.

    Returns:
      The rule.

    Example:
      >>> rule = jl.rules.dfa(jl.models.mlp(hidden=(16,), classes=10), optax.adam(1e-3))
      >>> split = jl.data_parallel(rule, jl.pipeline.mesh(data=jax.device_count()))
      >>> batch = jnp.ones((32, 64)), jax.nn.one_hot(jnp.arange(32) % 10, 10)
      >>> params = jax.jit(split.update)(split.init(jax.random.key(0), batch), batch)
    """
    checks.single_rule("data_parallel", rule)
    if not isinstance(mesh, Mesh):
        raise TypeError(f"mesh={checks.show(mesh)}: must be a jax.sharding.Mesh, such as jl.pipeline.mesh(data=4)")
    if axis not in mesh.axis_names:
        raise ValueError(f"axis={axis!r}: the mesh has the axes {', '.join(mesh.axis_names)}; name one of them")
    mesh = automatic(mesh)
    on_every_device, split = NamedSharding(mesh, P()), NamedSharding(mesh, P(axis))

    def split_examples(array: jax.Array) -> jax.Array:
        if getattr(array, "ndim", 0) and array.shape[0] % mesh.shape[axis]:
            raise ValueError(
                f"batch: {array.shape[0]} examples cannot be split evenly over the {mesh.shape[axis]} devices of axis "
                f"{axis!r}; use a multiple of {mesh.shape[axis]}"
            )
        return with_sharding_constraint(array, split)

    def spread(function: Callable[[Params, Batch], Out]) -> Callable[[Params, Batch], Out]:
        def over_devices(params: Params, batch: Batch) -> Out:
            checks.batch(batch, rule.net)
            params, batch = with_sharding_constraint(params, on_every_device), tuple(map(split_examples, batch))  # type: ignore[assignment]
            with split_over(mesh, axis):
                learned = function(params, batch)
            return with_sharding_constraint(learned, on_every_device)

        return over_devices

    def init(key: jax.Array, batch: Batch) -> Params:
        return with_sharding_constraint(rule.init(key, batch), on_every_device)

    return rule._replace(
        init=init,
        update=spread(rule.update),
        step=spread(rule.step),
        lessons=spread(rule.lessons),
        placement=Placement(mesh=mesh, axis=axis),
    )


def mixed_precision(rule: Rule, dtype: Any = jnp.bfloat16) -> Rule:
    """A rule whose layers compute in `dtype`; weights, optimizers, losses and batch statistics stay in float32.

    Each layer's weights and input are rounded to `dtype` where the layer is applied, and its output is float32 again.
    The gradients that reach the optimizer are float32. It is slower on hardware without such arithmetic, which
    includes most CPUs.

    Args:
      rule: the rule.
      dtype: the layers' floating-point type.

    Returns:
      The rule.

    Example:
      >>> rule = jl.mixed_precision(jl.rules.bp(jl.models.mlp(hidden=(16,), classes=10), optax.adam(1e-3)))
      >>> batch = jnp.ones((4, 64)), jax.nn.one_hot(jnp.arange(4), 10)
      >>> params = jax.jit(rule.update)(rule.init(jax.random.key(0), batch), batch)
      >>> params.components[0].weights["forward"][0]["linear"]["kernel"].dtype
      dtype('float32')
    """
    checks.single_rule("mixed_precision", rule)
    try:
        is_floating = jnp.issubdtype(dtype, jnp.floating)
    except (TypeError, ValueError):  # it is no type at all
        is_floating = False
    if not is_floating or jnp.dtype(dtype).itemsize < 2:  # JAX computes with 8-bit types in products alone
        raise ValueError(
            f"dtype={checks.show(dtype)}: must be a floating-point type of 16 bits or more, such as jnp.bfloat16"
        )

    def rounded(function: Callable[..., Out]) -> Callable[..., Out]:
        return wraps(function)(partial(_rounded, dtype, function))

    return rule._replace(
        update=rounded(rule.update),
        step=rounded(rule.step),
        predict=rounded(rule.predict),
        lessons=rounded(rule.lessons),
        learn=rule.learn and tuple(map(rounded, rule.learn)),
    )


def _rounded(dtype: Any, function: Callable[..., Out], *args: Any, **kwargs: Any) -> Out:
    """What a function returns if layers compute in this type."""
    with computing_in(dtype):
        return function(*args, **kwargs)
