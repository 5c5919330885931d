"""Which components do the same: what is found for one of a kind, such as its program, then holds for the others."""

from collections.abc import Hashable
from functools import partial
from types import MethodType
from typing import Any

import jax

from jaxlocal.make import learn_alone
from jaxlocal.rule import Learn, Part


def kind_of(steps: tuple[Learn, ...], given: Any) -> Hashable:
    """Steps of the same kind do the same: they are made of equal things, and get arrays of the same shapes.

    Others may do the same, too: two functions with the same code are not equal.
    """
    shapes, structure = jax.tree.flatten(jax.eval_shape(lambda arrays: arrays, given))
    kind = _made_of(steps), tuple(shapes), structure
    try:
        hash(kind)
    except TypeError:  # a part holds an array, for example
        return object()
    return kind


def _made_of(value: Any) -> Hashable:
    """What a value is made of, in a form that can be compared.

    Python compares partial functions and methods by identity; here what they hold is compared.
    """
    match value:
        case partial(func=func, args=(Part(teach=teach), descent)) if func is learn_alone:
            return learn_alone, _made_of(teach), _made_of(descent)  # the numbers of the layers stand in errors only
        case partial():
            return type(value), _made_of(value.func), _made_of(value.args), _made_of(value.keywords)
        case MethodType():
            return value.__func__, _made_of(value.__self__)
        case tuple():
            return type(value), *map(_made_of, value)
        case dict():
            return type(value), *((name, _made_of(item)) for name, item in value.items())
    return type(value), value
