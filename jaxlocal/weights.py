"""The weights of a rule by name: read them, set them, save them, load them; alike for all rules.

What belongs to a layer of the network has the number of the layer: `layers.0/forward/linear/kernel`, and the batch
statistics `layers.0/batch_stats/norm/mean`. What a component has beside its layers has the number of the component:
`components.1/bridge/linear/kernel`. So the network has the same names in every rule, whether it is one component, as in
`bp`, or many. The feedback of `fa` and its relatives belongs to layers, and that of the direct rules to components.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlocal import checks
from jaxlocal.files import write_whole
from jaxlocal.hints import nearest
from jaxlocal.network import Tree
from jaxlocal.rule import Params, Roles, Rule

DIGEST = "sha256"  # the name, in a file, of the digest of its arrays


def get_weights(rule: Rule, params: Params) -> dict[str, np.ndarray]:
    """All weights and batch statistics by name, as NumPy arrays of their own.

    Those of an ensemble have a first axis, the members.

    Args:
      rule: the rule.
      params: its parameters.

    Returns:
      The arrays, component by component.

    Example:
      >>> rule = jl.rules.dfa(jl.models.mlp(hidden=(16,), classes=2), optax.adam(1e-3))
      >>> params = rule.init(jax.random.key(0), (jnp.ones((4, 8)), jnp.ones((4, 2))))
      >>> for name, array in jl.get_weights(rule, params).items():
      ...     print(name, array.shape)
      components.0/feedback (2, 16)
      layers.0/forward/linear/bias (16,)
      layers.0/forward/linear/kernel (8, 16)
      layers.1/forward/linear/bias (2,)
      layers.1/forward/linear/kernel (16, 2)
    """
    checks.rule_and_params(rule, params)
    found = _by_name(params)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in found.values()):
        raise TypeError("params: get_weights makes NumPy arrays, which is not possible inside jax.jit; call it outside")
    return {name: np.array(leaf, order="C") for name, leaf in found.items()}


def set_weights(rule: Rule, params: Params, weights: Mapping[str, Any]) -> Params:
    """Parameters with these weights and batch statistics in place of their own.

    All else stays: weights without a new value, optimizer states, random keys, the number of batches seen. `params`
    itself does not change.

    Args:
      rule: the rule.
      params: its parameters.
      weights: new arrays by name, all of them or some; the names are those of `get_weights`.

    Returns:
      The new parameters.

    Example:
      >>> rule = jl.rules.dfa(jl.models.mlp(hidden=(16,), classes=2), optax.adam(1e-3))
      >>> params = rule.init(jax.random.key(0), (jnp.ones((4, 8)), jnp.ones((4, 2))))
      >>> params = jl.set_weights(rule, params, {"layers.0/forward/linear/bias": np.full(16, 0.5)})
    """
    checks.rule_and_params(rule, params)
    if not isinstance(weights, Mapping):
        raise TypeError(
            f"weights={checks.show(weights)}: must be a dict of arrays by name, such as that of jl.get_weights"
        )
    found = _by_name(params)
    for name in weights:
        if name not in found:
            raise ValueError(f"weights: this rule has no {checks.show(name)}; {nearest(str(name), found)}")
    new = {name: _fitting(name, value, found[name], rule.placement.members) for name, value in weights.items()}
    changed = jax.tree.map(lambda name, old: new.get(name, old), _names(params), _trees(params))
    components = (
        replace(component, weights=own, stats=stats)
        for component, (own, stats) in zip(params.components, changed, strict=True)
    )
    return replace(params, components=tuple(components))


def save_weights(path: str | PathLike[str], rule: Rule, params: Params) -> None:
    """Save all weights and batch statistics in one file of the format safetensors, under the names of `get_weights`.

    A checkpoint holds a whole run. This file holds what it has learned, for other programs and other rules.

    Args:
      path: the file, such as `"net.safetensors"`; a file that exists is replaced.
      rule: the rule.
      params: its parameters.
    """
    path, safetensors = checks.path("path", path, "net.safetensors"), _safetensors()
    if path.is_dir():
        raise IsADirectoryError(f"path={str(path)!r}: is a folder; name a file in it, such as net.safetensors")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path={str(path)!r}: must be a file in a folder that exists; make the folder first")
    weights = get_weights(rule, params)
    write_whole(path, safetensors.numpy.save(weights, {DIGEST: _digest(weights)}))


def load_weights(path: str | PathLike[str], rule: Rule, params: Params) -> Params:
    """Parameters with the weights and batch statistics of a file that `save_weights` or another program has written.

    The file must hold all arrays of `get_weights`, and no others. To set some of them, pass those that you choose from
    `safetensors.numpy.load_file(path)` to `set_weights`.

    Args:
      path: the file.
      rule: the rule.
      params: its parameters, such as those of its `init`. Optimizer states, random keys and the number of batches seen
        stay as they are here.

    Returns:
      The new parameters.

    Example:
      >>> import tempfile
      >>> rule = jl.rules.dfa(jl.models.mlp(hidden=(16,), classes=2), optax.adam(1e-3))
      >>> params = rule.init(jax.random.key(0), (jnp.ones((4, 8)), jnp.ones((4, 2))))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     jl.save_weights(f"{folder}/net.safetensors", rule, params)
      ...     params = jl.load_weights(f"{folder}/net.safetensors", rule, params)
    """
    path = checks.path("path", path, "net.safetensors")
    checks.rule_and_params(rule, params)
    weights = _read(path)
    try:
        loaded = set_weights(rule, params, weights)
    except (TypeError, ValueError) as error:
        raise type(error)(f"path={str(path)!r}: {error}") from None
    if missing := [name for name in _by_name(params) if name not in weights]:
        raise ValueError(
            f"path={str(path)!r}: the file lacks {missing[0]!r}; to set only what it holds, pass "
            "safetensors.numpy.load_file(path) to jl.set_weights"
        )
    return loaded


# Names.


def _by_name(params: Params) -> dict[str, Any]:
    """The arrays of the parameters by name."""
    return dict(zip(jax.tree.leaves(_names(params)), jax.tree.leaves(_trees(params)), strict=True))


def _trees(params: Params) -> tuple[tuple[Tree, Tree], ...]:
    """The weights and the statistics of each component."""
    return tuple((component.weights, component.stats) for component in params.components)


def _names(params: Params) -> tuple[tuple[Tree, Tree], ...]:
    """The name of each array, in trees like the weights and statistics of each component."""
    names, first = [], 0
    for i, (weights, stats) in enumerate(_trees(params)):
        layers = [f"layers.{number}" for number in range(first, first + len(stats))]
        by_role = {
            role: _each_below([f"{layer}/{role}" for layer in layers], tree)
            if isinstance(tree, tuple)  # it has an entry for each layer of the component
            else _below(f"components.{i}/{role}", tree)
            for role, tree in weights.items()
        }
        names.append((Roles(by_role), _each_below(layers, stats)))
        first += len(stats)
    return tuple(names)


def _each_below(names: list[str], trees: tuple[Tree, ...]) -> tuple[Tree, ...]:
    return tuple(_below(name, tree) for name, tree in zip(names, trees, strict=True))


def _below(name: str, tree: Tree) -> Tree:
    """The names of a tree's arrays: that of the tree, then the keys that lead to the array."""

    def longer(path: Any, leaf: Any) -> str:
        return "/".join(filter(None, (name, jax.tree_util.keystr(path, simple=True, separator="/"))))

    return jax.tree_util.tree_map_with_path(longer, tree)


# Values.


def _fitting(name: str, value: Any, old: Any, members: int) -> jax.Array:
    """The value as an array like the old one: of its shape and type, on its devices."""
    traced = isinstance(value, jax.core.Tracer)
    try:
        array = value if traced else np.asarray(value)
    except Exception as error:  # whatever the library that it comes from raises
        reason = str(error).partition("\n")[0]
        raise TypeError(f"weights: {name!r} cannot be read as a NumPy array ({reason}); convert it first") from None
    if not any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.floating, jnp.integer)):
        raise TypeError(f"weights: {name!r} has dtype {array.dtype}, but must hold real numbers; convert it first")
    if array.shape != old.shape:
        raise ValueError(
            f"weights: {name!r} has shape {array.shape}, but must have {old.shape}; "
            + _remedy(array.shape, old.shape, members)
        )
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
        array = array.astype(old.dtype)
    if not traced and not np.isfinite(array).all():
        raise ValueError(f"weights: {name!r} holds NaN or infinity as {old.dtype}; give it finite numbers")
    placed = isinstance(old, jax.Array) and not isinstance(old, jax.core.Tracer) and old.committed
    return jax.device_put(array, old.sharding) if placed else jnp.asarray(array)


def _remedy(given: tuple[int, ...], wanted: tuple[int, ...], members: int) -> str:
    if members and given == wanted[1:]:
        return f"the first axis is the {members} members; to give all the same, repeat it with np.stack"
    if len(given) == 2 and given[::-1] == wanted:
        return "transpose it: the inputs come first"
    if len(given) > 2 and sorted(given) == sorted(wanted):
        return "move its axes with np.transpose: kernels of convolutions are (height, width, inputs, outputs)"
    return "take it from a network of the same sizes"


# Files.


def _read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a sound file."""
    safetensors = _safetensors()
    if not path.is_file():
        raise FileNotFoundError(f"path={str(path)!r}: there is no such file; check the path")
    try:
        with safetensors.safe_open(path, framework="np") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
            digest = (file.metadata() or {}).get(DIGEST)
    except Exception as error:  # safetensors raises errors of many kinds
        raise ValueError(
            f"path={str(path)!r}: is no safetensors file, or a damaged one ({error}); use a file of jl.save_weights"
        ) from None
    if digest not in (None, _digest(weights)):  # files of other programs have none
        raise ValueError(f"path={str(path)!r}: is damaged, its arrays are not those that were saved; save them again")
    return weights


def _digest(weights: dict[str, np.ndarray]) -> str:
    """The SHA-256 of names, types, shapes and values."""
    sha = hashlib.sha256()
    for name, array in sorted(weights.items()):
        sha.update(f"{name} {array.dtype} {array.shape} ".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def _safetensors() -> Any:
    """The library, which is imported where it is needed."""
    try:
        import safetensors.numpy
    except ImportError:
        raise ImportError(
            "saving and loading weights needs the library safetensors; install it with pip install safetensors"
        ) from None
    return safetensors
