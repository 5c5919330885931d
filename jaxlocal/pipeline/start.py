"""The components of a pipeline before the first batch, made for one device after the other."""

from collections.abc import Collection
from itertools import compress

import jax
from jax.extend import core
from jax.interpreters import partial_eval

from jaxlocal.rule import Batch, Component, Rule


class Start:
    """What `rule.init(key, example)` makes: the shapes of all parameters, and the components that are asked for."""

    def __init__(self, rule: Rule, key: jax.Array, example: Batch):
        self._program, self.params = jax.make_jaxpr(rule.init, return_shape=True)(key, example)
        self._given = jax.tree.leaves((key, example))

    def components(self, numbers: Collection[int]) -> dict[int, Component]:
        """The components with these numbers.

        They are computed one operation after the other, so that those of alike components are compiled once.
        """
        shapes = self.params.components
        wanted = [i in numbers for i, component in enumerate(shapes) for _ in jax.tree.leaves(component)]
        # Without dead code the program drops arguments that it does not need, but no constants.
        needed, used = partial_eval.dce_jaxpr(self._program.jaxpr, wanted)
        run = core.jaxpr_as_fun(core.ClosedJaxpr(needed, self._program.consts))
        leaves = iter(run(*compress(self._given, used)))
        return {i: jax.tree.map(lambda _: next(leaves), shapes[i]) for i in sorted(numbers)}
