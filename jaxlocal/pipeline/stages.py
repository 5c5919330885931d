"""A stage of the pipeline: neighbouring components, which learn from the same batch at the same tick."""

from collections.abc import Hashable
from functools import partial
from types import MethodType
from typing import Any

import jax

from jaxlocal import checks
from jaxlocal.make import learn_alone
from jaxlocal.rule import Component, Learn, Message, Part, Rule

Stage = tuple[int, ...]  # the numbers of its components

FORWARD_ONLY = "al", "drtp", "predsim", "dgl", "scpl", "ff"  # the library's rules that a pipeline takes


def steps(rule: Rule) -> tuple[Learn, ...]:
    """Each component's own step; a rule that does not have them is refused."""
    if not isinstance(rule, Rule):
        raise TypeError(f"rule={checks.show(rule)}: must be a rule, such as jl.rules.al(net, tx)")
    if rule.placement.members:
        raise ValueError(f"rule: is an ensemble of {rule.placement.members}; a pipeline takes a single rule")
    if rule.learn is None:
        raise ValueError(
            "rule: its components learn only after a pass through the whole network (they wait for an error or for "
            "targets from the top, which a backward pass brings), so they cannot learn from different batches at once; "
            "a pipeline needs a forward-only rule, whose rule.learn is not None: "
            f"{', '.join(f'jl.rules.{name}' for name in FORWARD_ONLY)}, or your own of parts that teach"
        )
    return rule.learn


def learn_stage(
    steps: tuple[Learn, ...], stage: Stage, components: tuple[Component, ...], message: Message
) -> tuple[tuple[Component, ...], Message, tuple[dict[str, jax.Array], ...]]:
    """A stage learns from a message: its new components, its message to the next stage, and each component's losses."""
    learnt, losses = [], []
    for i, component in zip(stage, components, strict=True):
        with jax.named_scope(f"component {i}"):
            component, message, lesson = steps[i](component, message)
        learnt.append(component)
        losses.append(lesson.losses)
    return tuple(learnt), message, tuple(losses)


def kind_of(steps: tuple[Learn, ...], stage: Stage, given: Any) -> Hashable:
    """Stages of the same kind do the same: they are made of equal things, and get arrays of the same shapes.

    Others may do the same, too: two functions with the same code are not equal.
    """
    shapes, structure = jax.tree.flatten(jax.eval_shape(lambda arrays: arrays, given))
    kind = _made_of(tuple(steps[i] for i in stage)), tuple(shapes), structure
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
