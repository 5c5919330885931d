"""A stage of the pipeline: neighbouring components, which learn from the same batch at the same tick."""

import jax

from jaxlocal import checks
from jaxlocal.rule import Component, Learn, Message, Rule

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
