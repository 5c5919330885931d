"""Checks of arguments. Each error is one sentence that names the argument, its value and the remedy."""

import functools
import inspect
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxlocal.files import of_user
from jaxlocal.hints import nearest
from jaxlocal.network import Loss, Network, Tree, cross_entropy, squared_error, vocabulary
from jaxlocal.text import plural

P = ParamSpec("P")
R = TypeVar("R")
PIECE = 64 * 2**20  # bytes of an array that are searched at a time


def learning_rule(make: Callable[P, R], *, needs_blocks: bool = True) -> Callable[P, R]:
    """Decorates `NAME(net, tx, **settings)`: checks the network, the optimizers and the settings' names first.

    A rule that also trains a network without blocks, a head alone, is decorated with `needs_blocks=False`.
    """
    signature = inspect.signature(make)

    @functools.wraps(make)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name, value in kwargs.items():
            if name not in signature.parameters:
                hint = nearest(name, settings(make))
                raise TypeError(f"{make.__name__}: unknown setting {name}={show(value)}; {hint}")
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{make.__name__}: {error}; call it as {make.__name__}(net, tx, setting=…)") from None
        network(given["net"], make.__name__, needs_blocks)
        for name, value in given.items():
            if name == "tx" or (is_helper(name) and value is not None):
                optimizer(name, value)
        return make(*args, **kwargs)

    return checked


def settings(rule: Callable[..., Any]) -> list[str]:
    """The names of a rule's settings, which are all arguments of its function after the network and the optimizer."""
    others = list(inspect.signature(rule).parameters.values())[2:]
    return [p.name for p in others if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]


def is_helper(name: str) -> bool:
    """Whether a rule's argument of this name is another optimizer than that of the forward weights."""
    return name.endswith("_tx")


def show(value: Any) -> str:
    """The value on one short line: an array as its shape, a Flax module as its class, anything else as its repr."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"array of shape {value.shape}"
    text = type(value).__name__ if isinstance(value, nn.Module) else " ".join(repr(value).split())
    return text if len(text) < 80 else text[:77] + "…"


def network(net: Any, rule: str, needs_blocks: bool) -> None:
    """The value is a Network of Flax modules, with at least one block where the rule needs blocks."""
    if not isinstance(net, Network):
        raise TypeError(
            f"net={show(net)}: {rule} needs a jl.Network; take one from jl.models, such as jl.models.mlp((256, 256)), "
            "or build one from Flax modules with jl.Network(blocks, head)"
        )
    if not isinstance(net.blocks, tuple | list):
        raise TypeError(f"net.blocks={show(net.blocks)}: must be a tuple of Flax modules, such as (block,)")
    for i, layer in enumerate(net.layers):
        if not isinstance(layer, nn.Module):
            raise TypeError(f"net.layers[{i}]={show(layer)}: {_no_module(layer)}")
    if not isinstance(net.loss, Loss):
        raise TypeError(f"loss={show(net.loss)}: must be a jl.Loss, such as jl.Loss(value=…, output=…)")
    if needs_blocks and not net.blocks:
        raise ValueError(
            f"net has one layer, {show(net.head)}: {rule} trains hidden layers, so it needs at least one block below "
            "the head; add one, as in jl.models.mlp(hidden=(256,)), or use jl.rules.bp"
        )


def _no_module(layer: Any) -> str:
    """What to do with a layer that is no module of flax.linen."""
    libraries = [base.__module__ for base in type(layer).__mro__]
    if any(library.startswith("flax.nnx") for library in libraries):
        return "is a module of flax.nnx; wrap its class, flax.nnx.bridge.to_linen(CLASS, its arguments), and pass that"
    for library in ("equinox", "haiku", "keras", "torch"):
        if any(name.partition(".")[0] == library for name in libraries):
            return (
                f"is made with {library}; write it as a module of flax.linen, and bring its weights by jl.set_weights"
            )
    return "must be an instance of a Flax module (flax.linen.Module)"


def classes(rule: str, net: Network) -> None:
    """The network predicts classes."""
    if not net.loss.of_classes:
        raise ValueError(
            f"net.loss must be of classes, such as jl.cross_entropy or a jl.Loss with of_classes=True, because {rule} "
            "learns from labels; for real targets take another rule, such as jl.rules.drtp"
        )


def loss_is_not_learned(rule: str, net: Network) -> None:
    """Warn of a loss of the user's own, which this rule measures only."""
    if net.loss not in (cross_entropy, squared_error):
        warnings.warn(
            f"net.loss is a loss of your own, but {rule} does not learn from the network's loss; it is only measured",
            stacklevel=4,  # the user's line: above this function, the rule's, and `learning_rule`'s
        )


def single_rule(transform: str, rule: Any) -> None:
    """A Rule that is no ensemble: what the transforms take."""
    _some_rule(transform, rule)
    if rule.placement.members:
        raise ValueError(
            f"rule: is already an ensemble of {rule.placement.members}; pass {transform} the rule that it is made of, "
            "and make the ensemble last"
        )


def plain_rule(function: str, rule: Any) -> None:
    """A Rule of one run on one device."""
    _some_rule(function, rule)
    if rule.placement.members or rule.placement.mesh is not None:
        raise ValueError(
            f"rule: is an ensemble, or its batches are shared by devices, and {function} takes one run on one device; "
            "pass the rule that it is made of"
        )


def one_run(function: str, rule: Any, value: Any) -> None:
    """A rule that is no ensemble, and parameters: what most diagnostics take."""
    _some_rule(function, rule)
    if rule.placement.members:
        raise ValueError(
            f"rule: is an ensemble of {rule.placement.members}, and {function} takes one run; pass the rule that it is "
            "made of, and a member's parameters, jax.tree.map(lambda leaf: leaf[0], params)"
        )
    some_params(value)


def rule_and_params(rule: Any, value: Any) -> None:
    """A rule or an ensemble, and parameters of it."""
    if not hasattr(rule, "placement"):
        raise TypeError(
            f"rule={show(rule)}: must be a rule, such as jl.rules.dfa(net, tx); for a pipeline, pass pipe.rule and "
            "pipe.drain(params)"
        )
    rule.check(value)


def optimizer(name: str, tx: Any) -> None:
    """The value is an optax optimizer that moves weights down the gradient."""
    if not isinstance(tx, optax.GradientTransformation):
        wrapped = hasattr(tx, "gradient_transformation")  # optax.MultiSteps
        remedy = "add .gradient_transformation()" if wrapped else f"such as {name}=optax.adam(1e-3)"
        raise TypeError(f"{name}={show(tx)}: must be an optax optimizer, {remedy}")
    try:
        with jax.ensure_compile_time_eval(), jax.numpy_dtype_promotion("standard"):
            weight, up = {"kernel": jnp.zeros((1, 1))}, {"kernel": jnp.full((1, 1), 1e3)}
            move = float(tx.update(up, tx.init(weight), weight)[0]["kernel"][0, 0])
    except Exception as error:
        if isinstance(error, TypeError) and "keyword-only" in str(error):
            raise TypeError(
                f"{name} asks for more than gradients and weights ({error}); take one that does not, such as "
                f"{name}=optax.adam(1e-3)"
            ) from None
        return  # the rate is traced, or the optimizer works for one particular tree of weights only
    if not move <= 0:
        raise ValueError(
            f"{name} moves a weight by {move:+.3g} for a positive gradient, so the loss would grow: its learning rate "
            "is negative, missing or NaN; give it a positive one"
        )


def key(value: Any) -> None:
    """The value is a random key."""
    keys(value)
    axes = 1 if value.dtype == jnp.uint32 else 0  # an old key is a vector of two numbers
    if len(value.shape) != axes:
        raise ValueError(f"key has shape {value.shape}: must be a single key, such as jax.random.key(0)")


def keys(value: Any) -> None:
    """The value is a random key or an array of them, either of the new kind or of uint32."""
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    if dtype is None or not (jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) or (dtype == jnp.uint32 and shape)):
        raise TypeError(f"key={show(value)}: must be a random key, such as jax.random.key(0)")


def params(value: Any, components: int) -> None:
    """The value may be parameters from the rule's own init: it has the right number of components."""
    found = len(some_params(value))
    if found != components:
        raise ValueError(
            f"params has {found} components, but the rule has {components}: it comes from another rule or another "
            "network; call this rule's init"
        )


def some_params(value: Any) -> tuple[Any, ...]:
    """The value may be parameters of any rule; returns their components."""
    components = getattr(value, "components", None)
    if components is None:
        raise TypeError(f"params is of type {type(value).__name__}; it must be what the rule's init or update returned")
    return components


def members(value: Any, count: int) -> None:
    """The value may be parameters of an ensemble: every array of them has a first axis for the members."""
    some_params(value)
    for leaf in jax.tree.leaves(value):
        if leaf.shape[:1] != (count,):
            raise ValueError(
                f"params hold an array of shape {leaf.shape}, but the first axis of every array must be the {count} "
                "members of this ensemble; call its init"
            )


def examples(name: str, x: Any, shape: tuple[int, ...] | None = None, known: int | None = None) -> None:
    """The value is an array (B, …) of examples, in the shape that the parameters were made for.

    It holds real numbers or, where the size of a vocabulary is known, token ids.
    """
    array = name.rpartition(" ")[2]  # of "batch: x" the x
    if not hasattr(x, "shape") or not hasattr(x, "dtype"):
        raise TypeError(f"{name}={show(x)} is not an array; convert it with jnp.asarray({array})")
    if known is None and not jnp.issubdtype(x.dtype, jnp.floating):
        what = "makes labels float32" if array == "y" else "divides the bytes of images by 255"
        bytes_ = f"jl.data.floats((x, y)), which {what}"
        remedy = bytes_ if x.dtype == jnp.uint8 else f"{array}.astype(jnp.float32)"
        raise TypeError(f"{name} has dtype {x.dtype}, but must be floating point; convert it with {remedy}")
    if known is not None and not jnp.issubdtype(x.dtype, jnp.integer):
        raise TypeError(
            f"{name} has dtype {x.dtype}, but the network's first layer takes token ids, whole numbers from 0 to "
            f"{known - 1}; convert it with {array}.astype(jnp.int32)"
        )
    if x.ndim < 2:
        raise ValueError(
            f"{name} has shape {x.shape}, but must be (B, …), examples first; give one example an axis with "
            f"{array}[None], or examples of one number each with {array}[:, None]"
        )
    if shape is not None and x.shape[1:] != shape:
        raise ValueError(
            f"{name} has shape {x.shape}, but the parameters were made for {array} of shape "
            f"(B, {', '.join(map(str, shape))}); reshape it, or call init with such a batch"
        )
    token_ids(name, x, known)


def pair_of_arrays(name: str, value: Any) -> None:
    """The value is a pair (x, y) of arrays."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        sets = getattr(value, "_fields", ())  # of jl.data.Splits
        remedy = f", such as {name}.{sets[-1]}" if sets else ""
        raise TypeError(f"{name}={show(value)}: must be a pair (x, y) of arrays{remedy}")
    for leaf, array in zip("xy", value, strict=True):
        if not hasattr(array, "shape") or not hasattr(array, "dtype"):
            raise TypeError(f"{name}: {leaf}={show(array)} is not an array; convert it with np.asarray({leaf})")


def token_ids(name: str, x: Any, known: int | None) -> None:
    """Every number of the array is a known token id, as far as it can be read here. None: it holds no token ids."""
    if known is None or not readable(x) or not x.size:
        return
    ids = np.asarray(x)
    if wrong := [int(end) for end in (ids.min(), ids.max()) if not 0 <= end < known]:
        raise ValueError(
            f"{name} holds the token id {wrong[0]}, but the network's first layer knows 0 to {known - 1}; "
            "encode the text with the same vocabulary, or give the network a larger one"
        )


def features(name: str, value: Any) -> None:
    """The value is an array (N, …) of one example or more."""
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        raise TypeError(f"{name}={show(value)} is not an array; convert it with jnp.asarray({name})")
    if value.ndim < 2 or not value.size:
        raise ValueError(f"{name} has shape {value.shape}, but must be (N, …), examples first, at least one")


def batch(pair: Any, net: Network, shapes: tuple[tuple[int, ...], ...] = (), stats: tuple[Tree, ...] = ()) -> None:
    """The value is a pair (x, y) of arrays with the same number of examples, at least one.

    Both hold finite real numbers, but x holds token ids where the network's first layer takes them.
    """
    pair_of_arrays("batch", pair)
    x, y = pair
    bytes_of_rows = getattr(y, "dtype", None) == jnp.uint8 and y.ndim > 1
    if hasattr(y, "dtype") and jnp.issubdtype(y.dtype, jnp.integer) and not bytes_of_rows:
        raise TypeError(
            f"batch: y has shape {y.shape} and dtype {y.dtype}, but must be (B, C), or (B, T, C) for tokens, floating "
            "point; turn class labels into one-hot rows with jax.nn.one_hot(y, classes)"
        )
    known = vocabulary(net)
    for name, array, shape, ids in zip("xy", pair, shapes or (None, None), (known, None), strict=True):
        examples(f"batch: {name}", array, shape, ids)
    if x.shape[0] != y.shape[0]:
        raise ValueError(
            f"batch: x has shape {x.shape} and y has shape {y.shape}; their first axes must have the same examples"
        )
    if not x.shape[0]:
        raise ValueError(f"batch: x has shape {x.shape}, an empty batch; pass at least one example")
    if x.shape[0] == 1 and any("batch_stats" in collections for collections in stats):
        raise ValueError(
            f"batch: x has shape {x.shape}, a batch of one, but batch norm needs a variance; pass at least two "
            "examples, or use a network without norm"
        )
    for name, array in zip("xy", pair, strict=True):
        finite("batch", name, array)


def readable(array: Any) -> bool:
    """Whether the array's numbers can be read here: it is not traced, and not spread over several machines."""
    abstract = isinstance(array, jax.core.Tracer | jax.ShapeDtypeStruct)
    return not abstract and getattr(array, "is_fully_addressable", True)


def finite(pair: str, name: str, array: Any) -> None:
    """No number of the array is NaN or infinite, as far as it can be read here."""
    if not readable(array) or not jnp.issubdtype(array.dtype, jnp.floating):
        return
    # In pieces, because an array may lie on a disk and be larger than the memory.
    whole = np.asarray(array)
    rows = max(1, PIECE // max(1, whole[:1].nbytes))
    if not all(np.isfinite(whole[i : i + rows]).all() for i in range(0, len(whole), rows)):
        raise ValueError(
            f"{pair}: {name} holds NaN or infinity; clean the data, or replace them with jnp.nan_to_num({name})"
        )


def targets(scores: Any, y: Any) -> None:
    """The targets have the shape of the network's output, and the network keeps the examples of a batch apart."""
    if scores.shape[:1] != y.shape[:1]:
        raise ValueError(
            f"x: for {y.shape[0]} examples the network's output has shape {scores.shape}; a layer mixes the examples, "
            "or x lacks an axis (x[..., None] gives images their channels)"
        )
    if scores.shape[1:] != y.shape[1:]:
        remedy = "change the targets, or the network's number of classes"
        if y.ndim == 3 and scores.ndim == 2:
            remedy = "for a target for each token, end the network with jl.sequences.Readout(classes, pool=None)"
        elif y.ndim == 2 and scores.ndim == 3:
            remedy = "give each token a row of y, or end the network with a jl.sequences.Readout that has a pool"
        elif y.ndim == scores.ndim == 3 and y.shape[1] != scores.shape[1]:
            remedy = "give each token of x one row of y, with zeros at padded places"
        elif scores.ndim > y.ndim == 2:
            remedy = (
                "the output still has the axes of the image; flatten them, as jl.layers.dense and jl.layers.Head do"
            )
        raise ValueError(
            f"batch: y has {y.shape[1:]} units for each example, but the network's output has {scores.shape[1:]}; "
            + remedy
        )


def loss_value(loss: Loss, scores: Any, y: Any) -> None:
    """The loss of the network gives a number for each example, or for each token that may have a target."""
    found = jnp.shape(jax.eval_shape(loss.value, scores, y))
    if found not in (y.shape[:1], y.shape[:-1]):
        raise ValueError(
            f"net.loss: value returned an array of shape {found} for {y.shape[0]} examples, but must return one "
            "number for each example, (B,); leave the first axis out of its sum or mean, as in jnp.mean(…, axis=-1)"
        )


def at_most_tokens(rule: str, y: Any) -> None:
    """Each example has one target, or one for each of its tokens, but not one for each place of an image."""
    if y.ndim > 3:
        raise ValueError(
            f"batch: y has shape (B, {', '.join(map(str, y.shape[1:]))}), a target for each place of an image, from "
            f"which {rule} cannot learn; take another rule, such as jl.rules.dfa, or give each image one target, (B, C)"
        )


def one_target(rule: str, y: Any) -> None:
    """Each example has one target, not one for each of its tokens or places."""
    at_most_tokens(rule, y)
    if y.ndim == 3:
        raise ValueError(
            f"batch: y has shape (B, {y.shape[1]}, {y.shape[2]}), a target for each token, from which {rule} cannot "
            "learn; take another rule, such as jl.rules.al or jl.rules.dfa, or give each sequence one target, (B, C)"
        )


def layer_indices(name: str, indices: Collection[int], count: int) -> frozenset[int]:
    """The layers with these numbers, counted from 0. Negative numbers count from the last layer, as in any sequence."""
    if not isinstance(indices, Collection) or not all(_is_whole(i) for i in indices):
        raise TypeError(f"{name}={show(indices)}: must be a set of layer numbers, such as {name}={{0, 1}}")
    if wrong := [i for i in indices if not -count <= i < count]:
        raise ValueError(
            f"{name}={indices!r}: there is no layer {wrong[0]}; the blocks and the head are numbered 0 to {count - 1}"
        )
    return frozenset(int(i) % count for i in indices)


def function(name: str, value: Any, example: str) -> None:
    """The value is a function or None."""
    if value is not None and (not callable(value) or isinstance(value, nn.Module)):
        raise TypeError(f"{name}={show(value)}: must be a function, such as {example}, not a {type(value).__name__}")


def initializer_maker(name: str, value: Any) -> None:
    """The value makes a function that draws weights, called as value()."""
    try:
        made = value()
    except Exception:
        made = None
    if not callable(made):
        raise TypeError(
            f"{name}={show(value)}: must make an initializer when it is called, such as "
            "flax.linen.initializers.he_normal, without parentheses"
        )


def initializer(name: str, value: Any) -> None:
    """The value is a function that draws weights, called as value(key, shape, dtype)."""
    try:
        drawn = jax.eval_shape(lambda key: value(key, (3, 2), jnp.float32), jax.random.key(0))
    except Exception:
        drawn = None
    if getattr(drawn, "shape", None) != (3, 2):
        raise TypeError(f"{name}={show(value)}: must be an initializer, such as flax.linen.initializers.he_normal()")


def path(name: str, value: Any, example: str = "runs/one") -> Path:
    """The value is the path of a file or a folder, as a text or a `Path`, which is returned; ~ is the user's folder."""
    if not isinstance(value, str | PathLike) or not str(value) or "\0" in str(value):
        raise TypeError(f"{name}={show(value)}: must be a path, such as {example!r}")
    return of_user(value)


def stage_sizes(name: str, sizes: Any, components: int) -> tuple[int, ...]:
    """The value is a sequence of the numbers of components in stages that hold all of them; it is returned."""
    if not isinstance(sizes, Iterable):
        raise TypeError(f"{name}={show(sizes)}: must be a sequence of numbers, one for each stage")
    sizes = tuple(sizes)
    for i, size in enumerate(sizes):
        positive_int(f"{name}[{i}]", size)
    if sum(sizes) != components:
        raise ValueError(
            f"{name}={sizes}: sums to {sum(sizes)}, but the rule has {components} components; jl.pipeline.balance "
            "finds such numbers"
        )
    return sizes


def flag(name: str, value: bool) -> None:
    """The value is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}={show(value)}: must be True or False")


def non_negative(name: str, value: float) -> None:
    """The value is a finite number, zero or more."""
    _number(name, value, "zero or more", lambda v: 0 <= v < float("inf"))


def positive(name: str, value: float) -> None:
    """The value is a finite number, more than zero."""
    _number(name, value, "more than zero", lambda v: 0 < v < float("inf"))


def comparable_classes(name: str, sizes: Sequence[int]) -> None:
    """There are two classes or more, with two examples or more each."""
    if len(sizes) < 2 or min(sizes) < 2:
        raise ValueError(
            f"{name}: has {plural(len(sizes), 'class', 'classes')}, the smallest with "
            f"{plural(min(sizes, default=0), 'example')}; distances need two classes or more, of two examples or more"
        )


def below_one(name: str, value: float) -> None:
    """The value is a number, zero or more and less than one."""
    _number(name, value, "zero or more and less than one", lambda v: 0 <= v < 1)


def up_to_one(name: str, value: float) -> None:
    """The value is a number from 0 to 1."""
    _number(name, value, "a number from 0 to 1", lambda v: 0 <= v <= 1)


def whole(name: str, value: int) -> None:
    """The value is a whole number."""
    if not _is_whole(value):
        raise TypeError(f"{name}={show(value)}: must be a whole number")


def seed(value: int, count: int = 1) -> None:
    """The value is a seed, and so are the `count` - 1 numbers after it."""
    whole("seed", value)
    if not 0 <= value <= 2**31 - count:
        raise ValueError(f"seed={value}: must be from 0 to {2**31 - count}")


def count(name: str, value: int) -> None:
    """The value is a whole number, zero or more."""
    whole(name, value)
    if value < 0:
        raise ValueError(f"{name}={value}: must be zero or more")


def positive_int(name: str, value: int) -> None:
    """The value is a whole number, one or more."""
    whole(name, value)
    if value < 1:
        raise ValueError(f"{name}={value!r}: must be at least 1")


def widths(name: str, value: Any) -> None:
    """The value is a sequence of numbers of units."""
    if not isinstance(value, list | tuple):
        example = f"({value},)" if isinstance(value, int) else "(256, 256)"
        raise TypeError(f"{name}={show(value)}: pass a sequence of widths, such as {name}={example}")
    for i, width in enumerate(value):
        positive_int(f"{name}[{i}]", width)


def _some_rule(function: str, rule: Any) -> None:
    if not hasattr(rule, "placement"):
        raise TypeError(f"rule={show(rule)}: {function} needs a rule, such as jl.rules.dfa(net, tx)")


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _number(name: str, value: float, wanted: str, good: Callable[[float], bool]) -> None:
    if isinstance(value, jax.core.Tracer):  # a search maps over settings, and traced numbers cannot be checked
        return
    if isinstance(value, bool) or not isinstance(value, Real | jax.Array):
        raise TypeError(f"{name}={show(value)}: must be a number, {wanted}")
    if not good(float(value)):
        raise ValueError(f"{name}={value!r}: must be {wanted}")
