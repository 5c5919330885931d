"""The training loop: `fit` trains whatever can learn and evaluates it after every epoch; `epoch` is the bare steps."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlocal import checks, processes
from jaxlocal.author import takes
from jaxlocal.data import Splits
from jaxlocal.data.augmentation import Augmentation
from jaxlocal.data.checking import check_augmentation, check_splits
from jaxlocal.data.streaming import resident
from jaxlocal.network import Tree
from jaxlocal.pipeline import Pipeline
from jaxlocal.programs import compiled
from jaxlocal.rule import Batch, Info, Params, Rule
from jaxlocal.training.account import Account
from jaxlocal.training.bar import Bar
from jaxlocal.training.evaluation import evaluate
from jaxlocal.training.feed import Order, ResidentFeed, StreamedFeed, check_batch_size, keys, on_devices, shuffled, take
from jaxlocal.training.learner import Learner, example_batch, learner_of
from jaxlocal.training.state import Progress, State, best_epoch, out_of_patience

Watch = Callable[[Progress], bool | None]


class Result(NamedTuple):
    """What `fit` returns."""

    state: State
    best: Params | None  # with `patience`: the parameters after the best epoch, if this call trained it
    stopped: bool  # before the last epoch: by `patience` or by `watch`
    seconds_to_first_step: float  # for tracing and compiling, or for loading what was compiled before

    @property
    def params(self) -> Params:
        """The parameters after the last step."""
        return self.state.params

    def __repr__(self) -> str:
        """The state, and whether the training stopped early."""
        return f"Result({self.state!r}{', stopped' if self.stopped else ''})"


def fit(
    rule: Rule | Pipeline,
    data: Splits,
    *,
    epochs: int,
    batch_size: int = 32,
    seed: int = 0,
    augmentation: Augmentation | None = None,
    patience: int | None = None,
    streamed: bool | None = None,
    start: State | None = None,
    watch: Watch | None = None,
    progress: bool = False,
) -> Result:
    """Train a rule, an ensemble of rules or a pipeline, and evaluate it after every epoch.

    The steps of an epoch run in chunks. A chunk is one call of a compiled program, which also gathers and augments its
    examples. Each epoch takes the examples in an order that depends only on the seed and the epoch's number; what is
    left after the last whole batch is not used in that epoch. Member i of an ensemble has the weights and the order of
    a single run with `seed + i`.

    Args:
      rule: a rule, an ensemble of rules or a pipeline.
      data: the examples; x may be uint8, which stands for x / 255. The test set is not used.
      epochs: the number of epochs in all, those before `start` included.
      batch_size: the number of examples in a step.
      seed: the seed of the weights, the order of the examples and the augmentation.
      augmentation: how images are changed, from `jl.augmentation`.
      patience: stop when this number of epochs has brought no improvement on the validation set.
      streamed: whether the examples are read from memory or disk chunk by chunk, rather than put on the device at the
        start; by default if they do not fit there.
      start: the state to continue from, of a run with the same settings.
      watch: called with the progress after each chunk and each epoch; if it returns True, training stops after the
        chunk that has begun by then.
      progress: whether to show the progress on stderr: a bar in a terminal, and elsewhere a line an epoch.

    Returns:
      The last state, whose history has an entry for each epoch: the components' mean losses, and loss and accuracy on
      the validation set and on as many examples from the start of the training set.

    Raises:
      DivergedError: a component's loss is NaN, infinite or beyond 1e8.

    Example:
      >>> rule = jl.rules.dfa(jl.models.mlp(hidden=(16,), classes=10), optax.adam(1e-2))
      >>> result = jl.training.fit(rule, jl.data.digits(), epochs=3)
      >>> len(result.state.history), result.state.history[-1]["validation"]["accuracy"] > 0.5
      (3, True)
    """
    began = time.perf_counter()
    _check(rule, data, epochs, batch_size, seed, patience, augmentation)
    checks.flag("progress", progress)
    checks.function("watch", watch, "print")
    if watch:
        takes("watch", watch, "progress")
    learner = learner_of(rule, augmentation)
    streamed = _is_streamed(learner, data, batch_size) if streamed is None else streamed
    members = learner.rule.placement.members
    init_key, order_key = keys(seed, members)
    order = Order(order_key, members, len(data.train[0]), batch_size)
    example = example_batch(data.train, batch_size, augmentation)
    if start is not None:
        _check_start(start, order.steps)
    params: Tree = learner.resume(start.params, example) if start else learner.begin(init_key, example)
    feed = _feed(learner, data, order, streamed)
    sets = _evaluated_sets(learner, data, streamed)
    account = Account(order.steps, start, seed if members else None)
    best, stopped, seconds_to_first_step = None, False, 0.0

    shown = progress and processes.writes()
    with Bar(account.step, epochs * order.steps, epochs) if shown else nullcontext() as bar:
        stops = partial(_stops, bar, watch)
        while account.step < epochs * order.steps and not stopped and not out_of_patience(account.history, patience):
            for chunk in feed.chunks(account.epoch, account.batch):
                params, terms = learner.learn(params, chunk)
                seconds_to_first_step = seconds_to_first_step or time.perf_counter() - began
                stopped |= stops(account.settle())  # with the chunk before, while the device computes this one
                account.expect(terms, chunk.steps)
                if stopped:
                    break
            stopped |= stops(account.settle())
            if account.batch:  # it stopped within the epoch
                break
            plain = learner.plain(params)
            account.close_epoch(
                {name: evaluate(learner.rule, plain, pair, augmentation) for name, pair in sets.items()}
            )
            if patience is not None and best_epoch(account.history) == account.epoch:
                best = jax.tree.map(jnp.copy, plain)
            stopped |= stops(account.progress(plain))

    unfinished = account.step < epochs * order.steps
    return Result(account.state(learner.plain(params)), best, unfinished, seconds_to_first_step)


def epoch(rule: Rule, params: Params, data: Batch, key: jax.Array, batch_size: int) -> tuple[Params, Info]:
    """One pass over the data in random order. What is left after the last whole batch is not used.

    The memory of `params` is reused (donated). Convolutions other than those of `jl.layers` are slow inside a scan on a
    CPU: give Flax's own the argument `conv_general_dilated=jl.layers.convolve`.

    Args:
      rule: the rule.
      params: its parameters.
      data: the examples (x, y), on the device.
      key: of the order.
      batch_size: the number of examples in a step.

    Returns:
      The parameters, and the infos of all steps, stacked along a first axis.

    Example:
      >>> rule = jl.rules.dfa(jl.models.mlp(hidden=(16,), classes=10), optax.adam(1e-3))
      >>> train = jl.data.digits().train
      >>> params = rule.init(jax.random.key(0), train)
      >>> params, info = jl.training.epoch(rule, params, train, jax.random.key(1), 32)
      >>> info.losses.shape
      (34, 2)
    """
    checks.pair_of_arrays("data", data)
    checks.key(key)
    return _epoch(rule, batch_size, params, data, key)


def epoch_of(rule: Rule, batch_size: int, params: Params, data: Batch, key: jax.Array) -> tuple[Params, Info]:
    """The steps of `epoch`, for a program of one's own."""
    x, y = data
    if len(x) != len(y):
        raise ValueError(f"data: x has {len(x)} examples, but y has {len(y)}; give each example one row of both")
    check_batch_size(batch_size, len(x))
    order = shuffled(key, len(x), batch_size)
    return jax.lax.scan(lambda params, rows: rule.step(params, take(data, rows)), params, order)


_epoch = compiled(static=2, donate_argnums=0)(epoch_of)


def plain_rule(rule: Rule | Pipeline) -> Rule:
    """The rule, also of a pipeline.

    Raises:
      TypeError: it is neither.
    """
    if not isinstance(rule, Rule | Pipeline):
        raise TypeError(
            f"rule={checks.show(rule)}: must be a rule, such as jl.rules.dfa(net, tx), or a pipeline of one"
        )
    return rule.rule if isinstance(rule, Pipeline) else rule


def _check(
    rule: Rule | Pipeline,
    data: Splits,
    epochs: int,
    batch_size: int,
    seed: int,
    patience: int | None,
    augmentation: Augmentation | None,
) -> None:
    """Refuse arguments that cannot be, before anything is computed."""
    plain = plain_rule(rule)
    members = plain.placement.members
    checks.seed(seed, max(1, members))
    checks.positive_int("epochs", epochs)
    checks.positive_int("batch_size", batch_size)
    if patience is not None:
        checks.positive_int("patience", patience)
    check_augmentation(augmentation)
    check_splits(data, plain.net)
    check_batch_size(batch_size, len(data.train[0]))
    others = ValueError("data: process 0 has other examples; give all processes the same")
    processes.check_same(partial(sample, data), others)


def _check_start(start: State, steps: int) -> None:
    """The value is a state, of a run whose epochs have as many steps."""
    if not isinstance(start, State):
        raise TypeError(
            f"start={checks.show(start)}: must be a state, such as result.state; parameters alone become one by "
            "jl.training.State(params, step=0, sums=(), history=())"
        )
    if start.steps not in (0, steps):
        raise ValueError(
            f"start: had {start.steps} steps in an epoch, and now there are {steps}; give the same data and batch_size"
        )


def sample(data: Splits) -> list[tuple[tuple[int, ...], bytes]]:
    """The shape of each array of the data, and some of its rows: other data differ in these."""
    arrays: list[np.ndarray] = jax.tree.leaves(tuple(data))
    return [(leaf.shape, leaf[np.linspace(0, len(leaf) - 1, 100).astype(int)].tobytes()) for leaf in arrays]


def _is_streamed(learner: Learner, data: Splits, batch_size: int) -> bool:
    """Whether the examples do not fit on the devices, or a process needs only some of them."""
    needs_some = learner.needed is not None and len(learner.needed.rows(batch_size)) < batch_size
    (streamed,) = processes.largest(needs_some or not resident(data))
    return bool(streamed)


def _feed(learner: Learner, data: Splits, order: Order, streamed: bool) -> ResidentFeed | StreamedFeed:
    """The training set in chunks, from the devices or, streamed, from memory or disk."""
    step_bytes = order.batch_size * max(1, order.members) * sum(leaf[:1].nbytes for leaf in data.train)
    length = learner.chunk_length(order.steps, step_bytes, streamed)
    if streamed:
        return StreamedFeed(data.train, order, length, learner.needed)
    return ResidentFeed(on_devices(data.train, learner.mesh), order, length)


def _evaluated_sets(learner: Learner, data: Splits, streamed: bool) -> dict[str, Batch | tuple[np.ndarray, np.ndarray]]:
    """The validation set, and as many examples of the training set."""
    sets = {"train": take(data.train, slice(len(data.validation[0]))), "validation": data.validation}
    return sets if streamed else {name: on_devices(pair, learner.mesh) for name, pair in sets.items()}


def _stops(bar: Bar | None, watch: Watch | None, progress: Progress | None) -> bool:
    """Show the progress, if there is any to report; whether `watch` then asks to stop, in any process."""
    if progress is None:
        return False
    if bar:
        bar.watch(progress)
    (stops,) = processes.largest(bool(watch and watch(progress)))
    return bool(stops)
