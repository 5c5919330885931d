"""What a rule costs: operations, weights, memory, and how much of it is moved, beside backpropagation."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import optax
from jax.extend import core
from jax.interpreters import partial_eval

from jaxlocal import checks
from jaxlocal.kinds import kind_of
from jaxlocal.network import Tree
from jaxlocal.rule import Batch, Learn, Rule
from jaxlocal.rules.backprop import bp
from jaxlocal.text import aligned


class Cost(NamedTuple):
    """What one step takes, as XLA counts it; every round of a loop counts, if their number is known beforehand."""

    operations: float  # additions, multiplications and the like
    weights: float  # of all roles, also those that never learn, such as the feedback of `dfa`
    words: float  # numbers of four bytes that are read or written
    memory: float  # bytes of parameters, optimizer states, batch and everything in between, at the worst moment


class CostTable(NamedTuple):
    """The cost of a rule, of each of its components, and of backpropagation on the same network and batch.

    The components of a rule with a backward pass cannot be separated: then `components` is empty. As text it is a
    table, in which everything is a multiple of backpropagation's cost.
    """

    rule: Cost
    components: tuple[Cost, ...]
    backprop: Cost

    def times_backprop(self, cost: Cost | None = None) -> Cost:
        """A cost, by default that of the whole rule, as a multiple of backpropagation's."""
        return Cost(*(ours / theirs for ours, theirs in zip(cost or self.rule, self.backprop, strict=True)))

    def __str__(self) -> str:
        lines = {"backprop": self.backprop, "rule": self.rule}
        lines |= {f"component {i}": cost for i, cost in enumerate(self.components)}
        rows = [["", *Cost._fields]]
        rows += [[name, *(f"{times:.3g}" for times in self.times_backprop(cost))] for name, cost in lines.items()]
        return aligned(rows, left=1, rule=False)


def costs(rule: Rule, batch: Batch, backprop: Rule | None = None) -> CostTable:
    """Count what one `update` of a rule costs, without running it: XLA compiles it, and counts.

    Args:
      rule: the rule.
      batch: a batch, or its shapes as `jax.ShapeDtypeStruct`.
      backprop: what to compare with; by default `jl.rules.bp` on the rule's network, with Adam.

    Returns:
      The costs. Those of the components do not sum up to the rule's exactly: a component counts the message that it
      reads, and the compiler joins some of their work.

    Example:
      >>> net = jl.models.mlp(hidden=(256, 256))
      >>> batch = jnp.ones((32, 784)), jax.nn.one_hot(jnp.arange(32) % 10, 10)
      >>> lean = jl.diagnostics.costs(jl.rules.al(net, optax.adam(1e-3)), batch)
      >>> paper = jl.diagnostics.costs(jl.rules.al(net, optax.adam(1e-3), codes=jl.codes.paper), batch)
      >>> [round(costs.times_backprop().operations, 1) for costs in (lean, paper)]
      [1.1, 7.8]
      >>> len(lean.components)
      2
    """
    checks.plain_rule("costs", rule)
    batch = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), batch)
    return CostTable(
        _of_rule(rule, batch),
        _of_components(rule, batch),
        _of_rule(backprop or bp(rule.net, optax.adam(1e-3)), batch),
    )


def _of_rule(rule: Rule, batch: Batch) -> Cost:
    params = jax.eval_shape(rule.init, jax.random.key(0), batch)
    return _cost(rule.update, params, batch, [component.weights for component in params.components])


def _of_components(rule: Rule, message: Any) -> tuple[Cost, ...]:
    """The cost of each component's own step, if the rule's components learn one after the other."""
    if rule.learn is None:
        return ()

    def without_lesson(learn: Learn, component: Any, message: Any) -> Any:
        return learn(component, message)[:2]

    found = []
    known: dict[Hashable, tuple[Cost, Any]] = {}  # cost and message of each kind of component: compiling takes time
    components = jax.eval_shape(rule.init, jax.random.key(0), message).components
    for learn, component in zip(rule.learn, components, strict=True):
        if (kind := kind_of((learn,), (component, message))) not in known:
            step = partial(without_lesson, learn)
            _, message_above = jax.eval_shape(step, component, message)
            known[kind] = _cost(step, component, message, component.weights), message_above
        cost, message = known[kind]
        found.append(cost)
    return tuple(found)


def _cost(step: Callable[[Any, Any], Any], state: Any, batch: Any, weights: Tree) -> Cost:
    """The cost of a program that replaces its state, which it need not keep."""
    traced = jax.jit(step, donate_argnums=0).trace(state, batch)
    compiled = traced.lower().compile()
    work = _of_program(traced, compiled)
    return Cost(work.operations, sum(leaf.size for leaf in jax.tree.leaves(weights)), work.words, memory(compiled))


def memory(compiled: Any) -> int:
    """The bytes that a compiled program needs on a device at its worst moment: what it is given, and all it makes."""
    counted = compiled.memory_analysis()
    made = counted.output_size_in_bytes - counted.alias_size_in_bytes + counted.temp_size_in_bytes
    return counted.argument_size_in_bytes + made


def operations(function: Callable[..., Any], *arguments: Any) -> float:
    """The operations of a program with arguments of these shapes, as they are counted in a `Cost`."""
    traced = jax.jit(function).trace(*arguments)
    return _of_program(traced, traced.lower().compile()).operations


@dataclass(frozen=True)
class _Work:
    """Operations, and numbers of four bytes that are read or written."""

    operations: float = 0.0
    words: float = 0.0

    def __add__(self, other: "_Work") -> "_Work":
        return _Work(self.operations + other.operations, self.words + other.words)

    def __rmul__(self, times: int) -> "_Work":
        return _Work(times * self.operations, times * self.words)


def _of_program(traced: Any, compiled: Any) -> _Work:
    """The whole work: what XLA counts, and what it leaves out."""
    program = traced.jaxpr.jaxpr
    needed, *_ = partial_eval.dce_jaxpr(program, [True] * len(program.outvars))  # XLA, too, removes dead code
    return _counted(compiled) + _left_out(needed)


def _counted(compiled: Any) -> _Work:
    """What XLA counts of a program, in which it counts one round of a loop."""
    counted = compiled.cost_analysis()
    return _Work(counted["flops"], counted["bytes accessed"] / 4)


def _left_out(program: core.Jaxpr) -> _Work:
    """The rounds of loops that XLA does not count: all of a `scan` but those that stand in the program."""
    total = _Work()
    for equation in program.eqns:
        inner = [(_left_out(body), body) for body in core.jaxprs_in_params(equation.params)]
        if equation.primitive.name == "scan":
            ((of_loops, body),) = inner
            rounds, unrolled = equation.params["length"], equation.params["unroll"]
            stand = min(rounds, unrolled + rounds % unrolled)
            total += rounds * of_loops + (rounds - stand) * _compiled(body)
        elif inner:  # of the branches of a condition XLA counts the one with the most operations
            total += max((work for work, _ in inner), key=lambda work: work.operations)
    return total


def _compiled(body: core.Jaxpr) -> _Work:
    """What XLA counts of one round of a loop."""
    run = core.jaxpr_as_fun(core.ClosedJaxpr(body, ()))
    return _counted(jax.jit(run).lower(*(variable.aval for variable in body.invars)).compile())
