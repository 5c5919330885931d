"""Where to cut a network into stages: what each component costs, and the cut whose most expensive stage costs least."""

import time
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from statistics import median
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.multihost_utils import broadcast_one_to_all
from jax.sharding import Mesh

from jaxlocal import checks
from jaxlocal.kinds import kind_of
from jaxlocal.network import neighbours
from jaxlocal.pipeline.pipeline import ROOM, Pipeline, pipelined
from jaxlocal.pipeline.stages import steps
from jaxlocal.rule import Batch, Component, Learn, Message, Params, Rule

ROUNDS = 4  # steps in one timed program
Several = Callable[[Component, Message], Component]  # several steps on one message


class Costs(NamedTuple):
    """What `measure` finds for each component."""

    seconds: tuple[float, ...]  # the time of one step
    message: tuple[int, ...]  # the size of its message to the next component, in bytes

    def of_stages(self, sizes: Sequence[int]) -> tuple[float, ...]:
        """The time of each stage, given the number of components in each.

        Example:
          >>> jl.pipeline.Costs(seconds=(4.0, 1.0, 2.0), message=(8, 8, 8)).of_stages((1, 2))
          (4.0, 3.0)
        """
        sizes = checks.stage_sizes("sizes", sizes, len(self.seconds))
        return tuple(sum(self.seconds[i] for i in stage) for stage in neighbours(sizes))


def measure(rule: Rule, params: Params, batch: Batch, repeats: int = 5) -> Costs:
    """Measure the time of each component's step on the device that holds the parameters.

    Args:
      rule: a forward-only rule.
      params: its parameters.
      batch: a batch of the size to train with.
      repeats: the number of measurements, of which the median counts; compilation is not measured.

    Returns:
      Each component's time and the size of its message.

    Example:
      >>> rule = jl.rules.al(jl.models.mlp(hidden=(16, 16), classes=10), optax.adam(1e-3))
      >>> batch = jnp.ones((4, 64)), jax.nn.one_hot(jnp.arange(4), 10)
      >>> costs = jl.pipeline.measure(rule, rule.init(jax.random.key(0), batch), batch)
      >>> len(jl.pipeline.balance(costs.seconds, 2)), costs.message
      (2, (1280, 1280))
    """
    learn = steps(rule)
    rule.check(params)
    checks.batch(batch, rule.net, params.shapes)
    checks.positive_int("repeats", repeats)
    programs: dict[Hashable, tuple[Learn, Several]] = {}  # of each kind of component, because compiling takes time
    message: Message = batch
    seconds, sizes = [], []
    for i, component in enumerate(params.components):
        kind = kind_of((learn[i],), (component, message))
        step, several = programs.setdefault(kind, (jax.jit(learn[i]), _several(learn[i])))
        seconds.append(_seconds(several, component, message, repeats))
        _, message, _ = step(component, message)
        sizes.append(sum(leaf.nbytes for leaf in jax.tree.leaves(message)))
    return Costs(tuple(seconds), tuple(sizes))


def _several(step: Learn) -> Several:
    """Several steps in one program, as in training: a single call would also pay for the memory that it allocates."""

    @partial(jax.jit, donate_argnums=0)
    def several(component: Component, message: Message) -> Component:
        return lax.scan(lambda component, _: (step(component, message)[0], None), component, length=ROUNDS)[0]

    return several


def _seconds(several: Several, component: Component, message: Message, repeats: int) -> float:
    """The median time of a component's step."""
    component = jax.block_until_ready(several(jax.tree.map(jnp.copy, component), message))  # may compile
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        component = jax.block_until_ready(several(component, message))
        times.append((time.perf_counter() - start) / ROUNDS)
    return median(times)


def balance(costs: Sequence[float], stages: int) -> tuple[int, ...]:
    """Cut components into neighbouring stages so that the most expensive stage costs as little as possible.

    Args:
      costs: the cost of each component in any unit, such as the seconds that `measure` finds.
      stages: the number of stages.

    Returns:
      The number of components of each stage, which `pipelined` takes as `stages`.

    Example:
      >>> jl.pipeline.balance([4, 1, 2, 0.5], 2)
      (1, 3)
    """
    checks.positive_int("stages", stages)
    if not isinstance(costs, Sequence | np.ndarray):
        raise TypeError(f"costs={checks.show(costs)}: must be a sequence of numbers, one for each component")
    if stages > len(costs):
        raise ValueError(f"stages={stages}: there are {len(costs)} components, and every stage needs at least one")
    for cost in costs:
        checks.non_negative("costs", cost)
    up_to = np.concatenate([[0], np.cumsum(costs)])
    # best[n] is the best cut of the first n components: the cost of its most expensive stage, and the sizes of all.
    # With one more stage: the best cut of the first m components, then one stage of the others; every m is tried.
    best: dict[int, tuple[float, tuple[int, ...]]] = {n: (float(up_to[n]), (n,)) for n in range(1, len(costs) + 1)}
    for made in range(2, stages + 1):
        best = {
            n: min((max(best[m][0], float(up_to[n] - up_to[m])), (*best[m][1], n - m)) for m in range(made - 1, n))
            for n in range(made, len(costs) + 1)
        }
    return best[len(costs)][1]


def balanced(
    rule: Rule,
    params: Params,
    batch: Batch,
    mesh: Mesh,
    axis: str = "component",
    *,
    room: float = ROOM,
    repeats: int = 5,
) -> tuple[Pipeline, Costs]:
    """`measure`, `balance` and `pipelined` in one call: a pipeline whose slowest stage is as fast as possible.

    The results do not depend on the cut. So it does not matter that another measurement may lead to another one.

    Args:
      rule: a forward-only rule.
      params: its parameters.
      batch: a batch of the size to train with.
      mesh: the devices. If there are several hosts, all of them use what the first one has measured.
      axis: the axis of the mesh along which the components lie.
      room: the memory for components on each device; see `pipelined`.
      repeats: the number of measurements; see `measure`.

    Returns:
      The pipeline, with one stage for each device on the axis, and what was measured.

    Example:
      >>> rule = jl.rules.al(jl.models.mlp(hidden=(16, 16), classes=10), optax.adam(1e-3))
      >>> batch = jnp.ones((4, 64)), jax.nn.one_hot(jnp.arange(4), 10)
      >>> params = rule.init(jax.random.key(0), batch)
      >>> pipe, costs = jl.pipeline.balanced(rule, params, batch, jl.pipeline.mesh(component=1))
      >>> pipe.sizes, len(costs.seconds)
      ((2,), 2)
    """
    pipe = pipelined(rule, mesh, axis, room=room)  # raises an error before anything is measured
    costs = measure(rule, params, batch, repeats)
    if jax.process_count() > 1:
        costs = costs._replace(seconds=tuple(broadcast_one_to_all(np.asarray(costs.seconds)).tolist()))
    sizes = balance(costs.seconds, len(pipe.stages))
    return pipelined(rule, mesh, axis, stages=sizes, room=room), costs
