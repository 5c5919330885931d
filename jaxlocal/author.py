"""Check what the author of a rule gives to `make_rule`: parts, masks of locality, first messages and lessons.

Many mistakes would train in silence otherwise: JAX broadcasts a gradient of another shape, and weights whose role is
misspelt keep their values.
"""

import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlocal.checks import show
from jaxlocal.hints import nearest
from jaxlocal.network import Network, Tree
from jaxlocal.rule import Component, Lesson, Message, Part, Stats, Weights


def check_parts(net: Network, parts: Sequence[Part], with_head: bool, alone: bool) -> None:
    """The parts have the layers of the network in order; if they learn alone, each of them knows how."""
    for part in parts:
        if not isinstance(part.layers, Collection):
            raise TypeError(f"parts: layers={show(part.layers)}: must be a tuple of layer numbers, such as (0,)")
        takes(f"init of {_of(part)}", part.init, "key", "message")
        if part.teach is not None:
            takes(f"teach of {_of(part)}", part.teach, "weights", "stats", "message", "key")
    found, layers = [layer for part in parts for layer in part.layers], list(range(len(net.layers)))
    if found != layers and (with_head or found != layers[:-1]):
        raise ValueError(
            f"parts: have the layers {found} of the network, but must have {layers}, in this order; the last one is "
            "the head: jl.head_part(net) is its part"
        )
    if alone and (without := [_of(part) for part in parts if part.teach is None]):
        raise ValueError(
            f"parts: that of {without[0]} has no teach; give it one, or give make_rule a teach for all components"
        )


def takes(name: str, function: Any, *arguments: str) -> None:
    """The function can be called with these arguments."""
    try:
        inspect.signature(function).bind(*arguments)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: {error}; it must take ({', '.join(arguments)})") from None


def check_roles(txs: Mapping[str, Any], locality: Mapping[str, np.ndarray], parts: int) -> None:
    """Every role with an optimizer has a mask, and every mask has a row and a column for each part."""
    for name, value, example in ("txs", txs, "optax.adam(1e-3)"), ("locality", locality, f"jl.upward({parts})"):
        if not isinstance(value, Mapping):
            raise TypeError(f"{name}={show(value)}: must be a dict by role, such as {{'forward': {example}}}")
    for role in ("forward", *txs):
        if role not in locality:
            raise ValueError(f"locality: has no mask for the role {role!r}; {nearest(role, locality)}")
    for role, mask in locality.items():
        if np.shape(mask) != (parts, parts):
            raise ValueError(
                f"locality: the mask of {role!r} has shape {np.shape(mask)}, but must be ({parts}, {parts}): a row and "
                "a column for each part, the head's included"
            )


def check_frozen(frozen: frozenset[int], parts: Sequence[Part]) -> None:
    """Every frozen layer belongs to a part; the head does not, where the rule has none."""
    for layer in frozen - {layer for part in parts for layer in part.layers}:
        raise ValueError(f"frozen: layer {layer} is the head, which this rule does not use; leave it out")


def checked_start(part: Part, found: Any, locality: Mapping[str, np.ndarray]) -> tuple[Weights, Stats, Message]:
    """What a part's `init` returns, if it is what it must be."""
    if not isinstance(found, tuple) or len(found) != 3:
        raise TypeError(f"init of {_of(part)}: returned {show(found)}, but must return (weights, stats, message)")
    weights, stats, message = found
    forward = weights.get("forward") if isinstance(weights, dict) else None
    for name, value in {'weights["forward"]': forward, "stats": stats}.items():
        _check_by_layer(f"init of {_of(part)}: {name}", value, part)
    for role, tree in weights.items():
        if role not in locality:
            raise ValueError(
                f"init of {_of(part)}: weights has the role {role!r}, which has no mask in locality; "
                f"{nearest(role, locality)}"
            )
        if isinstance(tree, tuple) and len(tree) != len(part.layers):
            raise TypeError(
                f"init of {_of(part)}: weights[{role!r}] is a tuple of {len(tree)}, but a tuple has an entry for each "
                "layer of the part; use a dict or a list for other weights"
            )
        for leaf in jax.tree.leaves(tree):
            if not hasattr(leaf, "dtype"):
                raise TypeError(
                    f"init of {_of(part)}: weights[{role!r}] holds {show(leaf)}, which is no array; make it one with "
                    "jnp.asarray"
                )
    return weights, stats, message


def checked_pair(message: Message) -> tuple[jax.Array, jax.Array]:
    """A message (x, y)."""
    if not isinstance(message, tuple) or len(message) != 2:
        raise TypeError(
            f"message={show(message)}: must be (x, y) here; init_forward and head_part read no other message"
        )
    return message


def checked_objective(found: Any) -> tuple[dict[str, jax.Array], Stats, Message]:
    """What an objective returns, if it is what it must be."""
    if not isinstance(found, tuple) or len(found) != 3:
        raise TypeError(f"objective: returned {show(found)}, but must return (losses by name, stats, message)")
    losses, stats, message = found
    _check_losses("objective", losses)
    return losses, stats, message


def checked_lesson(part: Part, component: Component, found: Any) -> tuple[Lesson, Message]:
    """What a part's `teach` returns, if it is what it must be."""
    if isinstance(found, Lesson) or not isinstance(found, tuple) or len(found) != 2:
        raise TypeError(f"teach of {_of(part)}: returned {show(found)}, but must return (lesson, message)")
    lesson, message = found
    check_lesson(part, component, lesson)
    return lesson, message


def check_lessons(parts: Sequence[Part], components: Iterable[Component], lessons: Any) -> None:
    """There is a lesson for each component."""
    if not isinstance(lessons, tuple | list) or len(lessons) != len(parts):
        found = f"{len(lessons)} lessons" if isinstance(lessons, tuple | list) else show(lessons)
        raise ValueError(f"teach: returned {found}, but must return a lesson for each of the {len(parts)} components")
    for part, component, lesson in zip(parts, components, lessons, strict=True):
        check_lesson(part, component, lesson)


def check_lesson(part: Part, component: Component, lesson: Any) -> None:
    """It has a gradient for every role that learns, in the shapes of the weights, and its losses are scalars."""
    whose = f"the lesson of {_of(part)}"
    if not isinstance(lesson, Lesson):
        raise TypeError(f"{whose} is {show(lesson)}, but must be a jl.Lesson(grads, stats, losses)")
    if not isinstance(lesson.grads, dict) or not all(isinstance(role, str) for role in lesson.grads):
        raise TypeError(
            f'{whose}: grads is {show(lesson.grads)}, but must be a dict by role, such as {{"forward": (…,)}}; pass '
            "the gradient of all weights"
        )
    for role in component.opt:
        if role not in lesson.grads:
            raise ValueError(f"{whose} has no gradient for the role {role!r}; {nearest(role, lesson.grads)}")
        _check_alike(f"{whose}: grads[{role!r}]", lesson.grads[role], component.weights[role])
    _check_by_layer(f"{whose}: stats", lesson.stats, part)
    _check_alike(f"{whose}: stats", lesson.stats, component.stats)
    _check_losses(whose, lesson.losses)


def _check_losses(whose: str, losses: Any) -> None:
    """The losses are scalars by name."""
    if not isinstance(losses, dict) or not losses:
        raise TypeError(f'{whose}: losses is {show(losses)}, but must be a dict of scalars, such as {{"local": loss}}')
    for name, loss in losses.items():
        if not isinstance(name, str):
            raise TypeError(f"{whose}: a loss is called {show(name)}, but its name must be a text")
        if np.shape(loss):
            raise ValueError(
                f"{whose}: the loss {name!r} has shape {np.shape(loss)}, but must be a scalar; take its mean"
            )
        if not jnp.issubdtype(jnp.result_type(loss), jnp.floating):
            raise TypeError(f"{whose}: the loss {name!r} is of type {jnp.result_type(loss)}, but must be a real number")


def _check_by_layer(name: str, value: Any, part: Part) -> None:
    """The value is a tuple with an entry for each layer of the part."""
    if not isinstance(value, tuple) or len(value) != len(part.layers):
        raise TypeError(f"{name} is {show(value)}, but must be a tuple with an entry for each layer, such as (entry,)")


def _check_alike(name: str, found: Tree, wanted: Tree) -> None:
    """The tree has the structure of another one, and its names and shapes."""
    has, must_have = (
        {jax.tree_util.keystr(path): np.shape(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (found, wanted)
    )
    for path in [*must_have, *has]:
        if has.get(path) != must_have.get(path):
            here, there = (f"has shape {tree[path]}" if path in tree else "is missing" for tree in (has, must_have))
            raise ValueError(f"{name}{path} {here}, but in the component it {there}")
    containers: list[Any] = [jax.tree.structure(tree) for tree in (found, wanted)]
    if containers[0] != containers[1]:
        raise ValueError(f"{name} is {show(containers[0])}, but in the component it is {show(containers[1])}")


def _of(part: Part) -> str:
    """The part in words."""
    return f"layer{'s' * (len(part.layers) > 1)} {', '.join(map(str, part.layers))}"
