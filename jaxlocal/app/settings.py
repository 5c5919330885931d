"""Settings of a run: what the command line, a file and a run's folder say in the same words."""

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import yaml
from tyro.conf import arg

from jaxlocal import checks, models, parallel, rules
from jaxlocal.data import Splits, augmentation, floats, load
from jaxlocal.decay import l2
from jaxlocal.files import write_whole
from jaxlocal.network import Network, cross_entropy, init_layer, squared_error
from jaxlocal.pipeline import Pipeline, mesh, pipelined
from jaxlocal.rule import Rule
from jaxlocal.training import al_schedule

MODELS = {
    name: make
    for name, make in vars(models).items()
    if inspect.isfunction(make)
    and make.__module__ == models.__name__
    and not name.startswith("_")
    and name != "matched"
}
OPTIMIZERS = {
    "adam": optax.adam,
    "sgd": optax.sgd,
    "nesterov": lambda rate: optax.sgd(rate, momentum=0.9, nesterov=True),
}
SCHEDULES = {
    "constant": lambda rate, steps: rate,
    "al": al_schedule,
    "cosine": optax.cosine_decay_schedule,
}
PRECISIONS = {"float32": None, "bfloat16": jnp.bfloat16, "float16": jnp.float16}
AUGMENTATIONS = {**augmentation.ALL, "mean": augmentation.subtract}
HELPERS = "autoencoder_tx", "inverse_tx", "feedback_tx"  # the optimizers of what only helps in training

# What functions of the library are called in a file or on a command line.
FUNCTIONS = {
    "activation": {name: getattr(nn, name) for name in ("relu", "elu", "gelu", "silu", "sigmoid", "softplus", "tanh")},
    "init": {name: getattr(nn.initializers, name) for name in ("he_normal", "glorot_uniform", "lecun_normal")},
    "loss": {"cross_entropy": cross_entropy, "squared_error": squared_error},
}


class ConfigError(ValueError):
    """A setting that cannot be, in one sentence."""


@dataclass(frozen=True)
class Config:
    """All that a run's result depends on, beside the code and the data."""

    rule: Annotated[str, arg(metavar="NAME")] = "al"
    """learning rule"""
    model: Annotated[str, arg(metavar="NAME")] = "mlp"
    """network"""
    data: Annotated[str, arg(metavar="NAME")] = "digits"
    """digits, TFDS name, folder, .npz file"""
    epochs: Annotated[int, arg(metavar="N")] = 40
    """passes over the training set"""
    batch_size: Annotated[int, arg(metavar="N")] = 32
    """examples a step"""
    lr: Annotated[float, arg(metavar="RATE")] = 1e-3
    """learning rate"""
    helper_lr: Annotated[float | None, arg(metavar="RATE")] = None
    """of feedback, inverses, autoencoders"""
    optimizer: Annotated[Literal["adam", "sgd", "nesterov"], arg(metavar="NAME")] = "adam"
    """adam, sgd or nesterov"""
    schedule: Annotated[Literal["constant", "al", "cosine"], arg(metavar="NAME")] = "constant"
    """constant, al (the paper's) or cosine"""
    l2: Annotated[float, arg(metavar="X")] = 0.0
    """strength of the L2 penalty"""
    augment: Annotated[tuple[str, ...], arg(metavar="NAME …")] = ()
    """of the images: jaxlocal list"""
    rule_args: Annotated[tuple[str, ...], arg(metavar="K=V …")] = ()
    """of the rule, such as width=256"""
    model_args: Annotated[tuple[str, ...], arg(metavar="K=V …")] = ()
    """such as hidden=[512,512]"""
    seed: Annotated[int, arg(metavar="N")] = 0
    """of weights, order, augmentation"""
    seeds: Annotated[int, arg(metavar="N")] = 1
    """so many runs at once, from --seed on"""
    precision: Annotated[Literal["float32", "bfloat16", "float16"], arg(metavar="TYPE")] = "float32"
    """or bfloat16, float16"""
    patience: Annotated[int | None, arg(metavar="N")] = None
    """epochs without a better validation"""
    validation: Annotated[int | None, arg(metavar="N")] = None
    """examples kept to choose by"""
    image_size: Annotated[int | None, arg(metavar="N")] = None
    """resize the images"""
    devices: Annotated[int, arg(metavar="N")] = 1
    """how many learn together"""
    pipeline: bool = False
    """a pipeline, not shares of the batch"""


WHERE = "devices", "pipeline"  # where a run is computed is no part of what it computes


class Built(NamedTuple):
    """What a Config stands for."""

    rule: Rule | Pipeline
    data: Splits
    augmentation: augmentation.Augmentation | None
    lr: Callable[[int], float]  # the learning rate at a step

    @property
    def plain(self) -> Rule:
        """The rule itself, where it is a pipeline."""
        return self.rule.rule if isinstance(self.rule, Pipeline) else self.rule


def read(path: Path) -> Config:
    """The settings in a YAML file; those that it does not name have their defaults."""
    named = f"{str(path)!r}"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{named} cannot be read ({error.strerror}); name a YAML file of settings") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{named} is not YAML ({reason}); write lines such as 'rule: al'") from None
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ConfigError(f"{named} holds no settings; write lines such as 'rule: al'")
    hints = get_type_hints(Config)
    values = {}
    for name, value in content.items():
        key = str(name).replace("-", "_")
        if key not in hints:
            raise ConfigError(f"{named} has a setting {name!r} that there is not; {nearest(key, hints)}")
        values[key] = _typed(f"{named}: {name}", value, hints[key])
    return Config(**values)


def write(config: Config, path: Path) -> None:
    """The settings as a YAML file, in one stroke."""
    content = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()}
    write_whole(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def build(config: Config) -> Built:
    """The rule, on its devices, and the data; what is wrong with the settings is said in one sentence."""
    check_numbers(config)
    make_rule = known("rule", config.rule, rules.ALL)
    augmentations = [known("augment", name, AUGMENTATIONS) for name in config.augment]
    net, data = network_and_data(config)
    if config.batch_size > len(data.train[0]):
        count = len(data.train[0])
        raise ConfigError(
            f"--batch-size={config.batch_size}: the training set has {count} examples; take at most {count}"
        )
    augment = augmentation.chain(*(_augmentation(make, data) for make in augmentations)) if augmentations else None
    steps = config.epochs * (len(data.train[0]) // config.batch_size)

    def tx(rate: float) -> optax.GradientTransformation:
        optimizer = OPTIMIZERS[config.optimizer](SCHEDULES[config.schedule](rate, steps))
        return optax.chain(l2(config.l2), optimizer) if config.l2 else optimizer

    settings = arguments("rule-args", config.rule_args)
    parameters = inspect.signature(make_rule).parameters
    if config.helper_lr is not None:
        helpers = [name for name in HELPERS if name in parameters]
        if not helpers:
            raise ConfigError(f"--helper-lr={config.helper_lr}: {config.rule} has one learning rate only; leave it out")
        settings |= {name: tx(config.helper_lr) for name in helpers}
    try:
        rule = make_rule(net, tx(config.lr), **settings)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"--rule={config.rule}: {error}") from None
    schedule = SCHEDULES[config.schedule](config.lr, steps)
    lr = schedule if callable(schedule) else lambda step: schedule
    return Built(_transformed(config, rule), data, augment, lambda step: float(lr(step)))


def check_numbers(config: Config) -> None:
    """Refuse what cannot be, whatever the data."""
    for name in ("epochs", "batch_size", "seeds", "devices", "patience", "validation", "image_size"):
        if (number := getattr(config, name)) is not None and number < 1:
            raise ConfigError(f"{flag(name)}={number}: must be at least 1")
    for name in ("lr", "helper_lr"):
        if (number := getattr(config, name)) is not None and not 0 < number < float("inf"):
            raise ConfigError(f"{flag(name)}={number}: must be a number above 0")
    if not 0 <= config.l2 < float("inf"):
        raise ConfigError(f"--l2={config.l2}: must be a number from 0")
    last = 2**31 - config.seeds
    if not 0 <= config.seed <= last:
        raise ConfigError(f"--seed={config.seed}: must be from 0 to {last}")


def _transformed(config: Config, rule: Rule) -> Rule | Pipeline:
    """In the precision, on the devices, for as many seeds as are asked for."""
    if (dtype := PRECISIONS[config.precision]) is not None:
        rule = parallel.mixed_precision(rule, dtype)
    if config.pipeline and config.seeds > 1:
        raise ConfigError(f"--seeds={config.seeds}: a pipeline trains one seed; leave out --pipeline, or --seeds")
    try:
        if config.pipeline:
            return pipelined(rule, mesh(component=config.devices))
        if config.devices > 1:
            if config.batch_size % config.devices:
                raise ConfigError(
                    f"--batch-size={config.batch_size}: cannot be dealt out to {config.devices} devices; take a "
                    "multiple"
                )
            rule = parallel.data_parallel(rule, mesh(data=config.devices))
    except ConfigError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError(f"--devices={config.devices}: {error}") from None
    return parallel.ensemble(rule, config.seeds) if config.seeds > 1 else rule


def network_and_data(config: Config) -> tuple[Network, Splits]:
    """The network, for examples and classes such as the data's; and the data, for such a network."""
    make = known("model", config.model, MODELS)
    data = examples(config)
    return _network(config, make, data), data


def examples(config: Config) -> Splits:
    """The data, for such a network."""
    try:
        data = load(config.data, validation=config.validation, size=config.image_size)
    except (ValueError, TypeError, OSError) as error:
        reason = str(error).removeprefix(f"name={config.data!r}: ")
        raise ConfigError(f"--data={config.data}: {reason}") from None
    if config.model == "autoencoder":  # it learns to give its input
        return Splits(*((x, floats((x, x))[0].reshape(len(x), -1)) for x, _ in data))
    return data


def _network(config: Config, make: Callable[..., Network], data: Splits) -> Network:
    x, y = data.train
    parameters = inspect.signature(make).parameters
    known_of_data = {"classes": y.shape[-1], "units": y.shape[-1]}
    if x.ndim == 4:
        known_of_data["image_size"] = x.shape[1]
    settings = {name: value for name, value in known_of_data.items() if name in parameters}
    settings |= arguments("model-args", config.model_args)
    for name in settings.keys() - parameters.keys():
        raise ConfigError(f"--model-args: {config.model} has no {name!r}; {nearest(name, parameters)}")
    try:
        net = make(**settings)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"--model={config.model}: {error}") from None
    one = tuple(jax.ShapeDtypeStruct((2, *leaf.shape[1:]), jnp.float32) for leaf in (x, y))
    try:
        scores = jax.eval_shape(lambda x: _forward(net, x), one[0])
        checks.targets(scores, one[1])
    except Exception as error:  # whatever its layers say of such an input
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"--model={config.model}: cannot take the examples of {config.data}, of shape {x.shape[1:]}, with targets "
            f"of shape {y.shape[1:]} ({reason[:300]}); take another network, or --image-size"
        ) from None
    if net.loss is cross_entropy and not np.allclose(floats((x[:1000], y[:1000]))[1].sum(-1), 1, atol=1e-3):
        raise ConfigError(
            f"--data={config.data}: its targets are real numbers and no classes, of which the cross entropy makes no "
            "sense; add --model-args loss=squared_error"
        )
    return net


def _forward(net: Network, x: jax.Array) -> jax.Array:
    for layer in net.layers:
        x = init_layer(layer, jax.random.key(0), x)[2]
    return x


def _augmentation(make: Callable[..., augmentation.Augmentation], data: Splits) -> augmentation.Augmentation:
    x = data.train[0]
    if x.ndim != 4:
        raise ConfigError(f"--augment: needs images, but the examples have shape {x.shape[1:]}; leave it out")
    return make(augmentation.mean_image(x)) if make is augmentation.subtract else make()


def arguments(name: str, pairs: tuple[str, ...]) -> dict[str, Any]:
    """key=value, the value read as YAML; functions go by their names."""
    settings = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.isidentifier():
            raise ConfigError(f"--{name}={pair!r}: must be KEY=VALUE, such as width=256")
        try:
            value = _number(yaml.safe_load(text))
        except yaml.YAMLError:
            raise ConfigError(f"--{name}={pair}: {text!r} is not YAML; write such as hidden=[512,512]") from None
        if key in FUNCTIONS:
            value = known(f"{name} {key}", value, FUNCTIONS[key])
        settings[key] = tuple(map(_number, value)) if isinstance(value, list) else value
    return settings


def _number(value: Any) -> Any:
    """YAML takes 1e-3 for a text."""
    with suppress(ValueError):
        return float(value) if isinstance(value, str) else value
    return value


def known(name: str, value: Any, options: Mapping[str, Any]) -> Any:
    """The option of this name; if there is none, the nearest one is suggested."""
    if isinstance(value, str) and value in options:
        return options[value]
    raise ConfigError(f"{flag(name)}={value}: there is no such name; {nearest(str(value), options)}")


def nearest(value: str, options: Iterable[str]) -> str:
    """Which name may have been meant."""
    near = get_close_matches(value.lower(), options, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"take one of {', '.join(options)}"


def flag(name: str) -> str:
    """A setting as it is on the command line."""
    return f"--{name.replace('_', '-')}"


def _typed(source: str, value: Any, hint: Any) -> Any:
    """A value of a file, as what the setting must be."""
    if get_origin(hint) in (Union, UnionType):
        return None if value is None else _typed(source, value, get_args(hint)[0])
    if get_origin(hint) is Literal:
        if value in get_args(hint):
            return value
        raise ConfigError(f"{source}={value!r}: there is no such choice; {nearest(str(value), get_args(hint))}")
    if get_origin(hint) is tuple:
        if isinstance(value, dict):
            return tuple(f"{key}={json.dumps(one)}" for key, one in value.items())
        if isinstance(value, list):
            return tuple(map(str, value))
        raise ConfigError(f"{source}={value!r}: must be a list, such as [{value!r}]")
    if hint is float:
        value = _number(value)
    right = isinstance(value, hint) or (hint is float and isinstance(value, int))
    if not right or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{source}={value!r}: must be {NOUNS[hint]}")
    return hint(value)


NOUNS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
