"""What the settings of a run stand for: a network, data, a learning rule and the transforms around it."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxlocal import checks, codes, memory, models, parallel, rules
from jaxlocal.app.settings import Config, ConfigError, check, known, pairs
from jaxlocal.data import Splits, augmentation, floats, load
from jaxlocal.data.augmentation import Augmentation
from jaxlocal.data.splits import autoencoding
from jaxlocal.decay import l2
from jaxlocal.network import Network, cross_entropy, init_layer, squared_error
from jaxlocal.pipeline import Pipeline, mesh, pipelined
from jaxlocal.rule import Rule
from jaxlocal.training import al_schedule
from jaxlocal.training.learner import example_batch

OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": optax.adam,
    "sgd": optax.sgd,
    "nesterov": lambda rate: optax.sgd(rate, momentum=0.9, nesterov=True),
}
SCHEDULES: dict[str, Callable[[float, int], float | optax.Schedule]] = {
    "constant": lambda rate, steps: rate,
    "al": al_schedule,
    "cosine": optax.cosine_decay_schedule,
}
PRECISIONS = {"float32": None, "bfloat16": jnp.bfloat16, "float16": jnp.float16}
AUGMENTATIONS: dict[str, Callable[..., Augmentation]] = {**augmentation.ALL, "mean": augmentation.subtract}
HELPERS = "autoencoder_tx", "inverse_tx", "feedback_tx"  # the optimizers of weights that prediction does not use

# The arguments of rules and networks that are functions or made of them, and the names by which they are given.
FUNCTIONS: dict[str, dict[str, Any]] = {
    "activation": {name: getattr(nn, name) for name in ("relu", "elu", "gelu", "silu", "sigmoid", "softplus", "tanh")},
    "init": {name: getattr(nn.initializers, name) for name in ("he_normal", "glorot_uniform", "lecun_normal")},
    "codes": {"lean": codes.lean, "paper": codes.paper},
    **dict.fromkeys(("bridge", "encoder", "decoder", "readout"), codes.ALL),
    "loss": {"cross_entropy": cross_entropy, "squared_error": squared_error},
}


class Built(NamedTuple):
    """What the settings of a run stand for."""

    rule: Rule | Pipeline
    data: Splits
    augmentation: Augmentation | None
    lr: Callable[[int], float]  # the learning rate at a step

    @property
    def plain(self) -> Rule:
        """The rule itself, also where it is a pipeline."""
        return self.rule.rule if isinstance(self.rule, Pipeline) else self.rule


def build(config: Config) -> Built:
    """The rule with its transforms, and the data.

    Raises:
      ConfigError: the settings contradict each other, the data or the devices.
    """
    check(config)
    make_rule = known("--rule", config.rule, rules.ALL)
    make_augmentations = [known("--augment", name, AUGMENTATIONS) for name in config.augment]
    net, data = network_and_data(config)
    count = len(data.train[0])
    if config.batch_size > count:
        raise ConfigError(
            f"--batch-size={config.batch_size}: the training set has {count} examples; take at most {count}"
        )
    steps = config.epochs * (count // config.batch_size)
    augment = _augmentation(make_augmentations, data.train[0])
    rule = _rule(config, make_rule, net, steps)
    _check_parameters(config, rule, data, augment)
    schedule = SCHEDULES[config.schedule](config.lr, steps)
    return Built(
        _transformed(config, rule),
        data,
        augment,
        lambda step: float(schedule(step) if callable(schedule) else schedule),
    )


def network_and_data(config: Config) -> tuple[Network, Splits]:
    """The network, with the input and output that the data needs, and the data."""
    make = known("--model", config.model, models.ALL)
    data = load_data(config)
    net = _network(config, make, data)
    _check_fit(config, net, data)
    return net, data


def load_data(config: Config) -> Splits:
    """The data; for an autoencoder the targets are the inputs."""
    try:
        data = load(config.data, validation=config.validation, size=config.image_size)
    except (ValueError, TypeError, OSError) as error:
        reason = str(error).removeprefix(f"name={config.data!r}: ")
        raise ConfigError(f"--data={config.data}: {reason}") from None
    return autoencoding(data) if config.model == "autoencoder" else data


def arguments(source: str, texts: Iterable[str]) -> dict[str, Any]:
    """The arguments KEY=VALUE of a rule or a network; functions are given by their names."""
    return {
        key: known(f"{source} {key}", value, FUNCTIONS[key]) if key in FUNCTIONS else value
        for key, value in pairs(source, texts).items()
    }


def _network(config: Config, make: Callable[..., Network], data: Splits) -> Network:
    x, y = data.train
    parameters = inspect.signature(make).parameters
    of_data = {"classes": y.shape[-1], "units": y.shape[-1]}
    if x.ndim == 4:
        of_data["image_size"] = x.shape[1]
    given = arguments("--model-args", config.model_args)
    for name in given.keys() - parameters.keys():
        raise ConfigError(
            f"--model-args={name}: unknown argument of {config.model}; {checks.nearest(name, parameters)}"
        )
    try:
        return make(**{name: value for name, value in of_data.items() if name in parameters} | given)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"--model={config.model}: {error}") from None


def _check_fit(config: Config, net: Network, data: Splits) -> None:
    """Refuse a network that cannot take the inputs, give the targets, or whose loss does not suit them."""
    x, y = data.train
    inputs, targets = (jax.ShapeDtypeStruct((2, *leaf.shape[1:]), jnp.float32) for leaf in (x, y))
    try:
        checks.targets(jax.eval_shape(lambda x: _forward(net, x), inputs), targets)
    except Exception as error:  # the layers may raise errors of any kind
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"--model={config.model}: cannot take the examples of {config.data}, of shape {x.shape[1:]}, with targets "
            f"of shape {y.shape[1:]} ({reason}); take another network, or --image-size"
        ) from None
    if net.loss is cross_entropy and y.shape[1:] == (1,):
        raise ConfigError(
            f"--data={config.data}: has one class, so that there is nothing to learn; add other classes or, if y holds "
            "real numbers, --model-args loss=squared_error"
        )
    if net.loss is cross_entropy and not np.allclose(floats((x[:1000], y[:1000]))[1].sum(-1), 1, atol=1e-3):
        raise ConfigError(
            f"--data={config.data}: cross entropy needs class labels, but the targets are real numbers; add "
            "--model-args loss=squared_error"
        )


def _forward(net: Network, x: jax.Array) -> jax.Array:
    for i, layer in enumerate(net.layers):
        x = init_layer(layer, jax.random.key(0), x)[2]
        if 0 in x.shape:
            raise ValueError(f"layer {i} has an output of shape {x.shape[1:]}")
    return x


def _augmentation(makers: list[Callable[..., Augmentation]], x: np.ndarray) -> Augmentation | None:
    """The augmentations one after the other, or None if there are none."""
    if not makers:
        return None
    if x.ndim != 4:
        raise ConfigError(f"--augment: needs images, but the examples have shape {x.shape[1:]}; leave it out")
    return augmentation.chain(
        *(make(augmentation.mean_image(x)) if make is augmentation.subtract else make() for make in makers)
    )


def _rule(config: Config, make: Callable[..., Rule], net: Network, steps: int) -> Rule:
    def optimizer(rate: float) -> optax.GradientTransformation:
        tx = OPTIMIZERS[config.optimizer](SCHEDULES[config.schedule](rate, steps))
        return optax.chain(l2(config.l2), tx) if config.l2 else tx

    given = arguments("--rule-args", config.rule_args)
    if config.helper_lr is not None:
        helpers = [name for name in HELPERS if name in inspect.signature(make).parameters]
        if not helpers:
            raise ConfigError(f"--helper-lr={config.helper_lr}: {config.rule} has one learning rate only; leave it out")
        given |= {name: optimizer(config.helper_lr) for name in helpers}
    try:
        return make(net, optimizer(config.lr), **given)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"--rule={config.rule}: {error}") from None


def _check_parameters(config: Config, rule: Rule, data: Splits, augment: Augmentation | None) -> None:
    """Refuse a rule that the network cannot have, and parameters that do not fit into memory, before making any."""
    example = jax.eval_shape(lambda: example_batch(data.train, config.batch_size, augment))
    try:
        params = jax.eval_shape(rule.init, jax.random.key(0), example)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"--rule={config.rule}: {error}") from None
    if (needed := config.seeds * memory.needed(params)) > (there := memory.available()):
        raise ConfigError(
            f"--model={config.model}: the parameters{f' of {config.seeds} seeds' * (config.seeds > 1)} would take "
            f"{memory.in_words(needed)}, and there are {memory.in_words(there)} of memory; take narrower "
            "layers or fewer --seeds"
        )


def _check_pipeline(config: Config, rule: Rule) -> None:
    if rule.learn is None:
        raise ConfigError(
            f"--pipeline: the components of {config.rule} wait for an error or a target from the top, and cannot learn "
            "from different batches at once; take the rule al or drtp, or leave out --pipeline"
        )
    if config.devices > (count := len(rule.learn)):
        raise ConfigError(
            f"--devices={config.devices}: the rule has {count} components; take at most {count} for --pipeline, or a "
            "network of more layers"
        )


def _transformed(config: Config, rule: Rule) -> Rule | Pipeline:
    """The rule in its precision, on its devices, and as an ensemble over its seeds."""
    if config.pipeline and config.seeds > 1:
        raise ConfigError(f"--seeds={config.seeds}: a pipeline trains one seed; leave out --pipeline or --seeds")
    shared = config.devices > 1 and not config.pipeline
    if shared and config.batch_size % config.devices:
        raise ConfigError(
            f"--batch-size={config.batch_size}: cannot be split evenly over {config.devices} devices; take a multiple"
        )
    if (dtype := PRECISIONS[config.precision]) is not None:
        rule = parallel.mixed_precision(rule, dtype)
    if config.pipeline:
        _check_pipeline(config, rule)
    try:
        if config.pipeline:
            return pipelined(rule, mesh(component=config.devices))
        if shared:
            rule = parallel.data_parallel(rule, mesh(data=config.devices))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"--devices={config.devices}: {error}") from None
    return parallel.ensemble(rule, config.seeds) if config.seeds > 1 else rule
