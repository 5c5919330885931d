"""Training: epochs as compiled programs, whole sets evaluated, runs that can stop at any step and go on from there."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxlocal import checks
from jaxlocal.data import Pairs, Splits, floats
from jaxlocal.data.augmentation import Augmentation
from jaxlocal.data.streaming import resident, stream
from jaxlocal.network import squared_error
from jaxlocal.pipeline import Pipeline
from jaxlocal.rule import Batch, Info, Params, Rule

Row = dict[str, Any]  # of one epoch, as in metrics.jsonl; with an ensemble each number is a list over the members
Terms = tuple[dict[str, Any], ...]

SHARES = 20  # that an epoch is done in, so that its progress shows and it can be interrupted
LEAST = 25  # steps of a share, so that starting it costs nothing against them
PIECE = 500  # examples that are evaluated at a time
CHUNK_BYTES = 2**28  # of examples that are gathered, or read from disk, at a time
TOO_LARGE = 1e8  # a loss beyond which a component has diverged


@partial(jax.jit, static_argnums=(0, 4), donate_argnums=1)
def epoch(rule: Rule, params: Params, data: Batch, key: jax.Array, batch_size: int) -> tuple[Params, Info]:
    """One pass over the data in random order, `batch_size` examples a step; what is left over is passed over.

    The infos of the steps come back stacked along a first axis. `params` is donated. Convolutions other than those of
    `jl.layers` are slow inside a scan on a CPU: give Flax's own `conv_general_dilated=jl.layers.convolve`.

    Example:
      >>> rule = jl.rules.dfa(jl.models.mlp(hidden=(16,), classes=10), optax.adam(1e-3))
      >>> train = jl.data.digits().train
      >>> params = rule.init(jax.random.key(0), train)
      >>> params, info = jl.training.epoch(rule, params, train, jax.random.key(1), 32)
      >>> info.losses.shape
      (34, 2)
    """
    x, y = data
    _check_batch_size(batch_size, len(x))
    order = _shuffled(key, len(x), batch_size)
    return jax.lax.scan(lambda params, rows: rule.step(params, (x[rows], y[rows])), params, order)


@partial(jax.jit, static_argnums=0)
def accuracy(rule: Rule, params: Params, data: Batch) -> jax.Array:
    """The share of examples whose highest score is at the right class."""
    checks.batch(data)
    x, y = data
    return jnp.mean(jnp.argmax(rule.predict(params, x), -1) == jnp.argmax(y, -1))


class DivergedError(FloatingPointError):
    """A component's loss is no number any more, or beyond all bounds."""


class State(NamedTuple):
    """All that a run is between two steps: `fit` goes on from it as if it had never stopped."""

    params: Params  # the rule's own, also where it is a pipeline
    step: int  # batches learnt from so far
    sums: Terms  # of each loss over the steps of the current epoch so far
    history: tuple[Row, ...]  # of the epochs that are done


class Progress(NamedTuple):
    """What `fit` tells its `watch` after some steps, and after every epoch."""

    step: int
    steps: int  # of one epoch
    loss: float  # the sum of all components' losses, the mean over the last steps
    state: State | None  # after the last step of an epoch


class Result(NamedTuple):
    """What `fit` returns."""

    state: State
    best: Params | None  # with `patience`: those of the best epoch on validation, if this call came by it
    stopped: bool  # before the last epoch: by `patience`, or because `watch` asked for it
    seconds_to_first_step: float  # tracing, compiling or loading of what was compiled before

    @property
    def params(self) -> Params:
        """After the last step."""
        return self.state.params


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
    watch: Callable[[Progress], bool | None] | None = None,
) -> Result:
    """Train a rule, an ensemble of them, or a pipeline, and evaluate it after every epoch.

    The steps of an epoch are a loop in one compiled program: shuffling, gathering and augmentation included. Each epoch
    takes the examples in an order that depends on the seed and the epoch's number alone, `batch_size` a step; what is
    left over is passed over. With `seed`, member i of an ensemble has the weights and the order of a single run with
    `seed + i`.

    Args:
      rule: a rule or what a transform made of one.
      data: the examples; x may be uint8, which stands for x / 255. The test set is not looked at.
      epochs: how many to train in all.
      batch_size: examples a step.
      seed: of the weights, the order and the augmentation.
      augmentation: from `jl.augmentation`.
      patience: stop when so many epochs have brought nothing better on the validation set.
      streamed: whether the examples are read from memory or disk bit by bit, rather than put on the device at the
        start; by default if they do not fit there.
      start: where to go on: the state of a run with the same settings.
      watch: called often with the progress; if it returns True, the run stops there.

    Returns:
      The last state, whose history has a row for each epoch: the components' mean losses, and loss and accuracy on the
      validation set and on as many examples at the start of the training set.

    Raises:
      DivergedError: a component's loss is NaN, infinite or beyond 1e8.

    Example:
      >>> rule = jl.rules.dfa(jl.models.mlp(hidden=(16,), classes=10), optax.adam(1e-2))
      >>> result = jl.training.fit(rule, jl.data.digits(), epochs=3)
      >>> len(result.state.history), result.state.history[-1]["validation"]["accuracy"] > 0.5
      (3, True)
    """
    began = time.perf_counter()
    if not isinstance(rule, Rule | Pipeline):
        raise TypeError(
            f"rule={checks.show(rule)}: must be a rule, such as jl.rules.dfa(net, tx), or a pipeline of one"
        )
    checks.whole("seed", seed)
    checks.positive_int("epochs", epochs)
    checks.positive_int("batch_size", batch_size)
    if patience is not None:
        checks.positive_int("patience", patience)
    streamed = not resident(data) if streamed is None else streamed
    for pair in data[:2]:
        in_bytes = not jnp.issubdtype(pair[0].dtype, jnp.floating)
        checks.batch(floats(_take(pair, slice(1)) if in_bytes or streamed else pair))
    _check_batch_size(batch_size, len(data.train[0]))
    learner = _Learner(rule, augmentation, batch_size, seed, data.train, streamed)
    params = learner.begin(start)
    history, sums, at = (list(start.history), start.sums, start.step) if start else ([], (), 0)
    probe = _take(data.train, slice(len(data.validation[0])))
    sets = {"train": learner.put(probe), "validation": learner.put(data.validation)}
    best, stopped, first_step, loss = None, False, 0.0, float("nan")

    def account(terms: Terms, count: int) -> None:
        """Wait for a share's losses, add them up, and tell of them."""
        nonlocal sums, stopped, loss
        values = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64)[:count], terms)
        _check_finite(values, done, learner.steps, seed if learner.members else None)
        total = jax.tree.map(lambda leaf: leaf.sum(0), values)
        sums = jax.tree.map(np.add, sums, total) if sums else total
        loss = float(sum(np.mean(value) for term in total for value in term.values())) / count
        if watch and done + count < at_end:
            stopped |= bool(watch(Progress(done + count, learner.steps, loss, None)))

    for number in range(at // learner.steps, epochs):
        if stopped or _has_waited(history, patience):
            break
        at_end = (number + 1) * learner.steps
        running, done = None, at
        for share in learner.shares(number, at % learner.steps):
            params, terms = learner.learn(params, share)
            first_step = first_step or time.perf_counter() - began
            if running:  # while this share is computed
                account(*running)
                done += running[1]
            running, at = (terms, share.steps), at + share.steps
            if stopped:
                break
        if running:
            account(*running)
        if at < at_end:
            break
        row = _row(number + 1, at, sums, learner.steps)
        plain = learner.plain(params)
        row |= {name: evaluate(learner.rule, plain, pair, augmentation) for name, pair in sets.items()}
        history.append(row)
        sums = ()
        if patience is not None and best_epoch(history) == number + 1:
            best = jax.tree.map(jnp.copy, plain)
        if watch:
            stopped |= bool(watch(Progress(at, learner.steps, loss, State(plain, at, (), tuple(history)))))
    return Result(State(learner.plain(params), at, sums, tuple(history)), best, at < epochs * learner.steps, first_step)


def _has_waited(history: Sequence[Row], patience: int | None) -> bool:
    """Whether so many epochs have brought nothing better."""
    return patience is not None and bool(history) and history[-1]["epoch"] - best_epoch(history) >= patience


def best_epoch(history: Sequence[Row]) -> int:
    """The number of the first epoch with the best accuracy (or least loss, without accuracies) on the validation set.

    Of an ensemble, the mean over its members.
    """
    return max(history, key=goodness)["epoch"]


def goodness(row: Row) -> float:
    """What is the higher the better: of the validation set the accuracy, or minus the loss where there is none."""
    measured = row["validation"]
    value = float(np.mean(measured["accuracy"] if "accuracy" in measured else np.negative(measured["loss"])))
    return value if np.isfinite(value) else -float("inf")


def evaluate(
    rule: Rule, params: Params, data: Pairs | Batch, augmentation: Augmentation | None = None
) -> dict[str, float | list[float]]:
    """The network's loss and, for classes, the accuracy on a whole set; a list over the members of an ensemble.

    NumPy arrays, which may be larger than the device's memory, are brought there piece by piece.

    Example:
      >>> rule = jl.rules.dfa(jl.models.mlp(hidden=(16,), classes=10), optax.adam(1e-3))
      >>> data = jl.data.digits()
      >>> sorted(jl.training.evaluate(rule, rule.init(jax.random.key(0), data.train), data.test))
      ['accuracy', 'loss']
    """
    x, y = data
    size = len(x)
    if isinstance(x, np.ndarray):
        size = min(size, max(1, CHUNK_BYTES // (x[:1].nbytes + y[:1].nbytes)))
    totals: Any = 0.0
    for begin in range(0, len(x), size):
        rows = np.minimum(np.arange(begin, begin + size), len(x) - 1)  # all pieces alike: one program
        piece = _take(data, rows) if size < len(x) else data
        totals = totals + np.asarray(_sums(rule, augmentation, params, piece, min(size, len(x) - begin)), np.float64)
    loss, right = (totals / len(x)).tolist()
    return {"loss": loss} if rule.net.loss is squared_error else {"loss": loss, "accuracy": right}


@partial(jax.jit, static_argnums=(0, 1))
def _sums(rule: Rule, augmentation: Augmentation | None, params: Params, data: Batch, count: jax.Array) -> jax.Array:
    """Over the first `count` examples: the sum of the losses, and how many are right."""
    size = min(PIECE, len(data[0]))

    def add(i: jax.Array, sums: jax.Array) -> jax.Array:
        rows = i * size + jnp.arange(size)
        counted = (rows < count).astype(jnp.float32)
        some, targets = floats(_take(data, jnp.minimum(rows, len(data[0]) - 1)))
        scores = rule.predict(params, augmentation.test(some) if augmentation else some)

        def of_one(scores: jax.Array) -> jax.Array:
            right = jnp.argmax(scores, -1) == jnp.argmax(targets, -1)
            right = right.reshape(size, -1).all(1).astype(jnp.float32)
            return jnp.stack([jnp.vdot(rule.net.loss.value(scores, targets), counted), jnp.vdot(right, counted)])

        return sums + (jax.vmap(of_one, out_axes=1)(scores) if rule.placement.members else of_one(scores))

    start = jnp.zeros((2, rule.placement.members) if rule.placement.members else 2)
    return jax.lax.fori_loop(0, -(-len(data[0]) // size), add, start)


class _Learner:
    """A rule or a pipeline with its data: what differs between them, for `fit`."""

    def __init__(
        self,
        rule: Rule | Pipeline,
        augmentation: Augmentation | None,
        batch_size: int,
        seed: int,
        train: Pairs,
        streamed: bool,
    ):
        self.pipe = rule if isinstance(rule, Pipeline) else None
        self.rule = rule.rule if isinstance(rule, Pipeline) else rule
        self.members = self.rule.placement.members
        self.steps = len(train[0]) // batch_size
        self._augmentation, self._batch_size, self._train, self._streamed = augmentation, batch_size, train, streamed
        self._count, self._data, self._mesh = len(train[0]), cast(Any, None), _mesh(rule)
        seeds = seed + jnp.arange(self.members) if self.members else jnp.asarray(seed)
        keys = _per_member(jax.random.split, self.members)(_per_member(jax.random.key, self.members)(seeds))
        self._init_key, self._order_key = keys[..., 0], keys[..., 1]
        step_bytes = batch_size * max(1, self.members) * sum(leaf[:1].nbytes for leaf in train)
        fits = max(1, CHUNK_BYTES // step_bytes)
        share = max(LEAST, -(-self.steps // SHARES))
        # A pipeline runs empty at the end of a share, so its shares are as long as can be.
        self._share = min(self.steps, fits if self.pipe else min(share, fits) if streamed else share)

    def begin(self, start: State | None) -> Any:
        """The parameters at the start, on the devices of the rule, and the data beside them."""
        x, y = floats(_take(self._train, slice(self._batch_size)))
        if self._augmentation:
            x = self._augmentation.test(jnp.asarray(x))
        example = jnp.asarray(x), jnp.asarray(y)
        params: Any
        if self.pipe and start:
            params = self.pipe.place(start.params, example)
        elif self.pipe:
            params = self.pipe.init(self._init_key, example)
        else:
            params = start.params if start else jax.jit(self.rule.init)(self._init_key, example)
            params = jax.tree.map(jnp.copy, params)  # the steps overwrite it, and the caller may want the start again
            if self._mesh:
                params = jax.device_put(params, NamedSharding(self._mesh, P()))
        self._data = self.put(self._train)
        return params

    def put(self, pair: Pairs) -> Any:
        """The arrays on every device that learns; those that are streamed stay where they are."""
        if self._streamed:
            return pair
        return tuple(self._everywhere(np.asarray(leaf)) for leaf in pair)

    def _everywhere(self, array: np.ndarray) -> jax.Array:
        if self._mesh is None:
            return jnp.asarray(array)
        sharding = NamedSharding(self._mesh, P())
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    def plain(self, params: Any) -> Params:
        """The rule's own parameters."""
        return self.pipe.drain(params) if self.pipe else params

    def shares(self, number: int, first: int) -> "Iterator[_Share]":
        """The rest of an epoch, from its step `first`."""
        key = _per_member(partial(_fold, number), self.members)(self._order_key)
        order = _order(self.members, self._count, self._batch_size, key)
        places = [(at, min(self._share, self.steps - at)) for at in range(first, self.steps, self._share)]
        if not self._streamed:
            for at, count in places:
                yield _Share(self._data, order, key, at, at, count)
            return
        wanted = np.asarray(order)
        rows = np.arange(wanted[: self._share].size).reshape(-1, *wanted.shape[1:])
        # The last share reads more than it needs, so that all are alike, and one program.
        starts = [min(at, self.steps - self._share) for at, _ in places]
        chunks = stream(self._train, [wanted[start : start + self._share] for start in starts])
        for pair, start, (at, count) in zip(chunks, starts, places, strict=True):
            flat = [self._everywhere(a.reshape(-1, *leaf.shape[1:])) for a, leaf in zip(pair, self._train, strict=True)]
            yield _Share(tuple(flat), rows, key, at - start, at, count)

    def learn(self, params: Any, share: "_Share") -> tuple[Any, Terms]:
        """The parameters after a share of an epoch, and the losses of its steps."""
        *args, count = share
        if self.pipe:
            return _flow(self.pipe, self._augmentation, count, params, *args)
        return _learn(self.rule, self._augmentation, self._share, params, *args, count)


def _mesh(rule: Rule | Pipeline) -> Any:
    return rule.mesh if isinstance(rule, Pipeline) else rule.placement.mesh


class _Share(NamedTuple):
    """Some steps of an epoch."""

    data: Any
    rows: Any  # of each step
    key: jax.Array  # of the epoch
    begin: int  # where the rows of these steps begin
    first: int  # the place of the first of them in the epoch
    steps: int


@partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=3)
def _learn(
    rule: Rule,
    augmentation: Augmentation | None,
    size: int,
    params: Params,
    data: Batch,
    order: jax.Array,
    key: jax.Array,
    begin: jax.Array,
    first: jax.Array,
    count: jax.Array,
) -> tuple[Params, Terms]:
    """`count` steps, at most `size`: a `_Share`."""

    def examples(i: jax.Array) -> Batch:
        return _examples(rule.placement.members, augmentation, data, order[begin + i], key, first + i)

    def learn(i: jax.Array, carry: tuple[Params, Terms]) -> tuple[Params, Terms]:
        params, losses = carry
        params, info = rule.step(params, examples(i))
        return params, jax.tree.map(lambda all_, one: all_.at[i].set(one), losses, info.terms)

    terms = jax.eval_shape(rule.step, params, jax.eval_shape(examples, 0))[1].terms
    losses = jax.tree.map(lambda leaf: jnp.zeros((size, *leaf.shape), leaf.dtype), terms)
    return jax.lax.fori_loop(0, count, learn, (params, losses))


@partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=3)
def _flow(
    pipe: Pipeline,
    augmentation: Augmentation | None,
    count: int,
    params: Any,
    data: Batch,
    order: jax.Array,
    key: jax.Array,
    begin: jax.Array,
    first: jax.Array,
) -> tuple[Any, Terms]:
    """`count` batches through a pipeline, until it is empty again."""
    rows = jax.lax.dynamic_slice_in_dim(order, begin, count)
    batches = jax.vmap(lambda rows, i: _examples(0, augmentation, data, rows, key, i))(rows, first + jnp.arange(count))
    params, info = pipe.run(params, batches)
    return params, info.terms


def _examples(
    members: int, augmentation: Augmentation | None, data: Batch, rows: jax.Array, key: jax.Array, step: jax.Array
) -> Batch:
    """The examples of one step of the epoch that the key stands for."""
    x, y = floats(_take(data, rows))
    if augmentation is None:
        return x, y
    return _per_member(augmentation.train, members)(_per_member(partial(_fold, step), members)(key), x), y


def _take(pair: Any, rows: Any) -> Any:
    """Some examples of a pair (x, y)."""
    return tuple(leaf[rows] for leaf in pair)


def _fold(number: int | jax.Array, key: jax.Array) -> jax.Array:
    return jax.random.fold_in(key, number)


def _per_member(function: Callable[..., Any], members: int) -> Callable[..., Any]:
    return jax.vmap(function) if members else function


def _shuffled(key: jax.Array, count: int, batch_size: int) -> jax.Array:
    """The rows of each step: (steps, batch_size)."""
    order = jax.random.permutation(key, count)
    return order[: count // batch_size * batch_size].reshape(-1, batch_size)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _order(members: int, count: int, batch_size: int, key: jax.Array) -> jax.Array:
    """The rows of each step: (steps, batch_size) or, of an ensemble, (steps, members, batch_size)."""
    if not members:
        return _shuffled(key, count, batch_size)
    return jax.vmap(lambda key: _shuffled(key, count, batch_size), out_axes=1)(key)


def _row(epoch: int, step: int, sums: Terms, steps: int) -> Row:
    """The means over an epoch's steps: each component's loss, and its terms."""
    terms = [{name: (value / steps).tolist() for name, value in sorted(term.items())} for term in sums]
    return {
        "epoch": epoch,
        "step": step,
        "losses": [np.sum(list(term.values()), 0).tolist() for term in terms],
        "terms": terms,
    }


def _check_batch_size(batch_size: int, count: int) -> None:
    if not 0 < batch_size <= count:
        raise ValueError(f"batch_size={batch_size}: the data has {count} examples; take 1 to {count}")


def _check_finite(losses: Terms, done: int, steps: int, seed: int | None) -> None:
    """Refuse to go on where a loss is no number or beyond all bounds; `losses` begin after `done` steps of the run."""
    for component, terms in enumerate(losses):
        for name, values in sorted(terms.items()):
            wrong = np.argwhere(~(np.abs(values) <= TOO_LARGE))
            if not len(wrong):
                continue
            where, *member = wrong[0]
            step = done + int(where)
            whose = f" of seed {seed + int(member[0])}" if member and seed is not None else ""
            raise DivergedError(
                f"component {component}: its loss {name!r}{whose} is {values[tuple(wrong[0])]:.3g} at step {step + 1} "
                f"(epoch {step // steps + 1}, batch {step % steps + 1}): the run has diverged; lower the learning rate"
            )


def al_schedule(rate: float, steps: int) -> optax.Schedule:
    """The AL paper's learning rate: times 0.1 after 40, 60 and 80 % of the steps, and times 0.5 after 90 %.

    Example:
      >>> [float(f"{jl.training.al_schedule(1.0, 100)(step):.2g}") for step in (0, 39, 40, 60, 80, 90)]
      [1.0, 1.0, 0.1, 0.01, 0.001, 0.0005]
    """
    checks.positive("rate", rate)
    checks.positive_int("steps", steps)
    factors = {0.4: 0.1, 0.6: 0.1, 0.8: 0.1, 0.9: 0.5}
    return optax.piecewise_constant_schedule(rate, {int(share * steps): factor for share, factor in factors.items()})
