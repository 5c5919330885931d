"""JAX's programs: the hand-written ones, and jaxlocal's, which alone import it."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.speed import limits
from experiments.speed.batch import make_batch
from experiments.speed.bench import handwritten, handwritten_layers
from experiments.speed.bench.nets import CLASSES, RATE, SEED, TARGET_PROP, Net

Tree = Any
MB = 1e6


class JaxProgram:
    """A step that is called once for each batch ("update") or scanned over `net.steps` batches ("scan")."""

    def __init__(self, init: Callable, step: Callable, net: Net, forms: Sequence[str]):
        one = batch(net)
        self._state = jax.jit(init)(jax.random.key(SEED), one)
        self._steps = net.steps
        self._calls = {}
        self.facts: dict[str, dict[str, float]] = {}
        for form in forms:
            given = many(one, net.steps) if form == "scan" else one
            call = jax.jit(partial(scan, step) if form == "scan" else step, donate_argnums=0)
            start = time.perf_counter()
            compiled = call.lower(self._state, given).compile()
            self.facts[form] = {"compile s": time.perf_counter() - start, **memory(compiled)}
            self._calls[form] = call, given

    def seconds(self, form: str) -> float:
        """Seconds of a step, the mean over `net.steps`."""
        call, given = self._calls[form]
        start = time.perf_counter()
        for _ in range(1 if form == "scan" else self._steps):
            self._state = call(self._state, given)
        jax.block_until_ready(self._state)
        return (time.perf_counter() - start) / self._steps


def scan(step: Callable, state: Tree, batches: Tree) -> Tree:
    """The step over batch after batch."""
    return jax.lax.scan(lambda state, batch: (step(state, batch), None), state, batches)[0]


def batch(net: Net) -> tuple[jax.Array, jax.Array]:
    """A batch for the net."""
    return make_batch(net.batch, net.inputs, CLASSES)


def many(one: Tree, steps: int) -> Tree:
    """The same batch for every step of a scan."""
    return jax.tree.map(lambda leaf: jnp.tile(leaf[None], (steps, *(1,) * leaf.ndim)), one)


def memory(compiled: Any) -> dict[str, float]:
    """Megabytes of a compiled program: in all, and in addition to its arguments and results."""
    found = compiled.memory_analysis()
    kept = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return {"memory MB": (kept + found.temp_size_in_bytes) / MB, "temp MB": found.temp_size_in_bytes / MB}


def optimizer() -> optax.GradientTransformation:
    """The optimizer of all programs."""
    return optax.adam(RATE)


def plain(net: Net, rule: str, forms: Sequence[str]) -> JaxProgram:
    """A hand-written program."""
    program = by_hand(net, rule)
    return JaxProgram(program.init, program.step, net, forms)


def by_hand(net: Net, rule: str) -> handwritten_layers.Program:
    """The equations of a rule for a net."""
    if net.images and rule in TARGET_PROP:
        raise ValueError("max pooling has no inverse")
    return handwritten.ALL[rule](handwritten_layers.layers(net.of(rule)), optimizer())


def needs(net: Net, rule: str) -> dict[str, float]:
    """Operations and bytes of a step of the rule."""
    program, one = by_hand(net, rule), batch(net)
    state = jax.eval_shape(program.init, jax.random.key(SEED), one)
    return {
        "operations": limits.operations(program.step, state, one),
        "bytes": limits.bytes_moved(program.step, state, one, state.opt),
    }


def jaxlocal(net: Net, rule: str, forms: Sequence[str]) -> JaxProgram:
    """One of jaxlocal's rules."""
    made = _rule(net, rule, optimizer())
    return JaxProgram(made.init, made.update, net, forms)


def temp_bytes(net: Net, rule: str) -> int:
    """The memory of an update with plain SGD in addition to its arguments and results; nothing is run."""
    made = _rule(net, rule, optax.sgd(0.1))
    one = jax.eval_shape(partial(batch, net))
    params = jax.eval_shape(made.init, jax.random.key(SEED), one)
    compiled: Any = jax.jit(made.update, donate_argnums=0).lower(params, one).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def _rule(net: Net, rule: str, tx: optax.GradientTransformation) -> Any:
    import jaxlocal as jl

    net = net.of(rule)
    if net.images:
        return jl.rules.ALL[rule](jl.models.conv2(), tx, **settings(rule))
    activation = {"relu": jax.nn.relu, "tanh": jnp.tanh}[net.activation]
    return jl.rules.ALL[rule](jl.models.mlp(net.hidden, CLASSES, activation=activation), tx, **settings(rule))


def settings(rule: str) -> dict[str, Any]:
    """What the hand-written program of a rule, and PyTorch's, have in place of the rule's defaults."""
    import jaxlocal as jl

    return {"codes": jl.codes.paper} if rule == "al" else {}
