"""What the settings of a run stand for: a network, data, a learning rule and the transforms around it."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxlocal import checks, codes, memory, models, parallel, processes, sequences
from jaxlocal.app.rule_names import (
    check_is_no_optimizer,
    check_is_rule,
    making,
    no_helper_rate,
    rule_maker,
    traced,
    written_settings,
)
from jaxlocal.app.settings import LONGEST_REASON, OF_TEXTS, Config, ConfigError, check, flag, known, pairs, shown
from jaxlocal.data import SPLITS, Encoding, Splits, augmentation, floats, load, load_encoded, load_text
from jaxlocal.data.augmentation import Augmentation
from jaxlocal.data.checking import are_classes, are_whole
from jaxlocal.data.frames import places
from jaxlocal.data.sets import names_in
from jaxlocal.data.splits import autoencoding, one_hot
from jaxlocal.data.text import is_text, origin
from jaxlocal.decay import l2
from jaxlocal.hints import nearest
from jaxlocal.network import Network, cross_entropy, init_layer, squared_error
from jaxlocal.pipeline import Pipeline, mesh, pipelined
from jaxlocal.pipeline.stages import FORWARD_ONLY
from jaxlocal.rule import Rule
from jaxlocal.search.rule_settings import HELPERS, those_of
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

# The arguments of rules and networks that are functions or made of them, and the names by which they are given.
FUNCTIONS: dict[str, dict[str, Any]] = {
    "activation": {name: getattr(nn, name) for name in ("relu", "elu", "gelu", "silu", "sigmoid", "softplus", "tanh")},
    "init": {name: getattr(nn.initializers, name) for name in ("he_normal", "glorot_uniform", "lecun_normal")},
    "codes": {"lean": codes.lean, "paper": codes.paper},
    **dict.fromkeys(("bridge", "encoder", "decoder", "readout"), codes.ALL),
    **{name: {"cross_entropy": cross_entropy, "squared_error": squared_error} for name in ("loss", "label_loss")},
    "pool": {"mean": sequences.mean, "last": sequences.last, "attention": sequences.AttentionPool()},
    "positions": {"sinusoidal": sequences.sinusoidal, "none": None},
}


class Data(NamedTuple):
    """A data set, how its texts were encoded, if it holds any, and the names of its classes and inputs, if known."""

    splits: Splits
    encoding: Encoding | None = None
    classes: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()  # the columns of a table


class Built(NamedTuple):
    """What the settings of a run stand for."""

    rule: Rule | Pipeline
    data: Splits
    encoding: Encoding | None
    augmentation: Augmentation | None
    lr: Callable[[int], float]  # the learning rate at a step
    classes: tuple[str, ...]  # their names, if they are known
    inputs: tuple[str, ...]  # the columns of a table

    @property
    def plain(self) -> Rule:
        """The rule itself, also where it is a pipeline."""
        return self.rule.rule if isinstance(self.rule, Pipeline) else self.rule


def build(config: Config, encoding: Encoding | None = None, inputs: Sequence[str] = ()) -> Built:
    """The rule with its transforms, and the data.

    Args:
      config: the settings.
      encoding: that of the texts of a run that is resumed or measured.
      inputs: the columns of the table that such a run was trained on.

    Raises:
      ConfigError: the settings contradict each other, the data or the devices; or the texts are others than before.
    """
    check(config)
    rule_maker("--rule", config.rule)
    for name in config.augment:
        known("--augment", name, AUGMENTATIONS)
    known("--model", config.model, models.ALL)
    data = load_data(config, encoding, inputs)
    if encoding and encoding.origin != origin(config.data, config.label):
        raise ConfigError(
            f"--data={config.data}: has changed since the run began; restore the file, or train another run"
        )
    return build_for(config, data)


def on_all_devices(config: Config) -> Config:
    """The settings; in several processes a run takes the devices of all of them.

    Raises:
      ConfigError: the settings ask for another number of devices.
    """
    if not processes.several() or config.devices == (count := jax.device_count()):
        return config
    if config.devices > 1:
        raise ConfigError(
            f"--devices={config.devices}: the {jax.process_count()} processes have {count} devices, which all take "
            "part; leave out the flag"
        )
    return replace(config, devices=count)


def build_for(config: Config, given: Data) -> Built:
    """The rule with its transforms, for this data.

    Raises:
      ConfigError: the settings contradict each other, the data or the devices.
    """
    make_rule = rule_maker("--rule", config.rule)
    net, data = network(config, given), given.splits
    check_batch_size(config, data)
    steps = config.epochs * (len(data.train[0]) // config.batch_size)
    augment = _augmentation([AUGMENTATIONS[name] for name in config.augment], given)
    rule = _rule(config, make_rule, net, steps)
    _check_parameters(config, rule, data, augment)
    schedule = SCHEDULES[config.schedule](config.lr, steps)
    return Built(
        _transformed(config, rule),
        data,
        given.encoding,
        augment,
        lambda step: float(schedule(step) if callable(schedule) else schedule),
        given.classes,
        given.inputs,
    )


def check_batch_size(config: Config, data: Splits) -> None:
    """Refuse batches that are larger than the training set."""
    if config.batch_size > (count := len(data.train[0])):
        raise ConfigError(
            f"--batch-size={config.batch_size}: the training set has {count} examples; take at most {count}"
        )


def network(config: Config, data: Data) -> Network:
    """The network, with the input and output that the data needs."""
    net = _network(config, known("--model", config.model, models.ALL), data)
    _check_fit(config, net, data.splits)
    return net


def load_data(config: Config, encoding: Encoding | None = None, inputs: Sequence[str] = ()) -> Data:
    """The data; for an autoencoder the targets are the inputs.

    Texts are encoded as the settings say or, if there is one, in the encoding of an earlier run. The columns of a table
    are in the order of `inputs`, those of an earlier run, if they are known.
    """
    with reading(config.data):
        if is_text(config.data):
            return _load_texts(config, encoding)
        _check_no_text_settings(config)
        data = load(config.data, validation=config.validation, size=config.image_size, label=config.label)
        names = names_in(config.data, config.label)
        if inputs and names.inputs:
            order = places(f"name={config.data!r}", names.inputs, inputs)
            data = Splits(*((x[:, order], y) for x, y in data))
    splits = autoencoding(data) if config.model == "autoencoder" else data
    return Data(splits, None, names.classes, tuple(inputs) or names.inputs)


@contextmanager
def reading(data: str) -> Iterator[None]:
    """Say in one sentence, with the name of the flag, that a data set cannot be read."""
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise ConfigError(f"--data={data}: {str(error).removeprefix(f'name={data!r}: ')}") from None


def stand_in(encoding: Encoding) -> Data:
    """Two texts without content, for which a network and its parameters are those for all texts of this encoding."""
    pair = encoding.ids(["", ""]), one_hot([0, 0], len(encoding.classes))
    return Data(Splits(pair, pair, pair), encoding, encoding.classes)


def arguments(source: str, texts: Iterable[str]) -> dict[str, Any]:
    """The arguments KEY=VALUE of a rule or a network; functions are given by their names."""
    return {
        key: known(f"{source} {key}", value, FUNCTIONS[key]) if key in FUNCTIONS else value
        for key, value in pairs(source, texts).items()
    }


def rule_arguments(rule: str, texts: Sequence[str]) -> dict[str, Any]:
    """The arguments KEY=VALUE of a rule.

    Raises:
      ConfigError: the rule has no such setting.
    """
    make = rule_maker("--rule", rule)
    settings = written_settings(make)
    given = arguments("--rule-args", texts)
    for text in texts:
        if (name := text.partition("=")[0]) not in settings:
            check_is_no_optimizer(f"--rule-args={shown(text)}", make, name)
            hint = nearest(name, settings) if settings else "it has none"
            raise ConfigError(f"--rule-args={shown(text)}: unknown setting of {rule}; {hint}")
    return given


def _load_texts(config: Config, encoding: Encoding | None) -> Data:
    if config.image_size is not None:
        raise ConfigError(f"--image-size={config.image_size}: {config.data} holds texts, not images; leave it out")
    if encoding:
        splits = load_encoded(config.data, encoding, config.validation, config.label)
        return Data(splits, encoding, encoding.classes)
    settings = {name: getattr(config, name) for name in OF_TEXTS}
    texts = load_text(config.data, label=config.label, validation=config.validation, **settings)
    return Data(*texts, texts.classes)


def _check_no_text_settings(config: Config) -> None:
    for name in OF_TEXTS:
        if (value := getattr(config, name)) != getattr(Config(), name):
            raise ConfigError(f"{flag(name)}={value}: {config.data} holds no texts; leave it out, or take a .csv file")


def _network(config: Config, make: Callable[..., Network], data: Data) -> Network:
    x, y = data.splits.train
    parameters = inspect.signature(make).parameters
    of_data = {"classes": y.shape[-1], "units": y.shape[-1]}
    if x.ndim == 4:
        of_data["image_size"] = x.shape[1]
    given = arguments("--model-args", config.model_args)
    if data.encoding:
        of_data["vocabulary"] = data.encoding.tokenizer.size
    if data.encoding and "vocabulary" in given:
        raise ConfigError("--model-args=vocabulary: is the number of tokens of the data; limit it by --vocabulary")
    _check_kind(config, takes_texts="vocabulary" in parameters, texts=data.encoding is not None)
    loss = given.pop("loss", None)  # of every network, also of one whose function does not take it
    for name in given.keys() - parameters.keys():
        raise ConfigError(f"--model-args={name}: unknown argument of {config.model}; {nearest(name, parameters)}")
    try:
        net = make(**{name: value for name, value in of_data.items() if name in parameters} | given)
        return net if loss is None else net._replace(loss=loss)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"--model={config.model}: {error}") from None


def _check_kind(config: Config, takes_texts: bool, texts: bool) -> None:
    """Refuse texts for a network that takes images, and the reverse."""
    if texts and not takes_texts:
        names = [name for name, make in models.ALL.items() if "vocabulary" in inspect.signature(make).parameters]
        raise ConfigError(
            f"--model={config.model}: takes no texts, and {config.data} holds texts; take {' or '.join(names)}"
        )
    if takes_texts and not texts:
        raise ConfigError(
            f"--model={config.model}: takes texts, and {config.data} holds none; take another network, or "
            "--data sentences"
        )


def _check_fit(config: Config, net: Network, data: Splits) -> None:
    """Refuse a network that cannot take the inputs, give the targets, or whose loss does not suit them."""
    x, y = data.train
    inputs, targets = jax.eval_shape(
        floats, tuple(jax.ShapeDtypeStruct((2, *leaf.shape[1:]), leaf.dtype) for leaf in (x, y))
    )
    try:
        checks.targets(jax.eval_shape(lambda x: _forward(net, x), inputs), targets)
    except Exception as error:  # the layers may raise errors of any kind
        raise ConfigError(
            f"--model={config.model}: cannot take the examples of {config.data}, of shape {x.shape[1:]}, with targets "
            f"of shape {y.shape[1:]} ({shown(error, LONGEST_REASON)}); take another network, or --image-size"
        ) from None
    one_column = y.shape[1:] == (1,)
    if net.loss == cross_entropy and one_column and y.dtype == np.uint8:
        raise ConfigError(f"--data={config.data}: has one class, so that there is nothing to learn; add other classes")
    wrong = [split for split, (_, y) in zip(SPLITS, data, strict=True) if one_column or not are_classes(y)]
    if net.loss == cross_entropy and wrong:
        whole = "store the labels as whole numbers, or " if are_whole(y) else ""
        raise ConfigError(
            f"--data={config.data}: cross entropy needs class labels, but the targets are real numbers, in the "
            f"{wrong[0]} set at least; {whole}add --model-args loss=squared_error"
        )


def _forward(net: Network, x: jax.Array) -> jax.Array:
    for i, layer in enumerate(net.layers):
        x = init_layer(layer, jax.random.key(0), x)[2]
        for leaf in jax.tree.leaves(x):
            if 0 in leaf.shape:
                raise ValueError(f"layer {i} has an output of shape {leaf.shape[1:]}")
    return x


def _augmentation(makers: list[Callable[..., Augmentation]], data: Data) -> Augmentation | None:
    """The augmentations one after the other, or None if there are none."""
    if not makers:
        return None
    if data.encoding:
        raise ConfigError("--augment: changes images, but the examples are texts; leave it out")
    x = data.splits.train[0]
    if x.ndim != 4:
        raise ConfigError(f"--augment: needs images, but the examples have shape {x.shape[1:]}; leave it out")
    return augmentation.chain(
        *(make(augmentation.mean_image(x)) if make is augmentation.subtract else make() for make in makers)
    )


def _rule(config: Config, make: Callable[..., Rule], net: Network, steps: int) -> Rule:
    def optimizer(rate: float) -> optax.GradientTransformation:
        tx = OPTIMIZERS[config.optimizer](SCHEDULES[config.schedule](rate, steps))
        return optax.chain(l2(config.l2), tx) if config.l2 else tx

    given = rule_arguments(config.rule, config.rule_args)
    if config.helper_lr is not None:
        helpers = those_of(make, HELPERS)
        if not helpers:
            raise no_helper_rate(f"--helper-lr={config.helper_lr}", config.rule, make)
        given |= {name: optimizer(config.helper_lr) for name in helpers}
    with making(config.rule, f"--rule={config.rule}"):
        rule = make(net, optimizer(config.lr), **given)
        check_is_rule(rule)
    return rule


def _check_parameters(config: Config, rule: Rule, data: Splits, augment: Augmentation | None) -> None:
    """Refuse a rule that the network cannot have, and parameters that do not fit into memory, before making any."""
    example = jax.eval_shape(lambda: example_batch(data.train, config.batch_size, augment))
    with making(config.rule, f"--rule={config.rule}"):
        params = traced(config.rule, rule, example)
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
            f"from different batches at once; take one of the rules {', '.join(FORWARD_ONLY)}, or leave out --pipeline"
        )
    if config.devices % config.split:
        raise ConfigError(f"--split={config.split}: must divide the number of devices, {config.devices}")
    if config.devices // config.split > (count := len(rule.learn)):
        raise ConfigError(
            f"--devices={config.devices}: the rule has {count} components; take at most {count} for --pipeline, a "
            f"network of more layers, or --split, by which several devices share each batch"
        )


def _transformed(config: Config, rule: Rule) -> Rule | Pipeline:
    """The rule in its precision, on its devices, and as an ensemble over its seeds."""
    if config.pipeline and config.seeds > 1:
        raise ConfigError(f"--seeds={config.seeds}: a pipeline trains one seed; leave out --pipeline or --seeds")
    if config.split > 1 and not config.pipeline:
        raise ConfigError(f"--split={config.split}: without --pipeline all devices share each batch; leave it out")
    if config.pipeline:
        _check_pipeline(config, rule)
    shares = config.split if config.pipeline else config.devices
    if config.batch_size % shares:
        raise ConfigError(
            f"--batch-size={config.batch_size}: cannot be split evenly over {shares} devices; take a multiple"
        )
    if (dtype := PRECISIONS[config.precision]) is not None:
        rule = parallel.mixed_precision(rule, dtype)
    try:
        if config.pipeline:
            axes = {"data": config.split} if config.split > 1 else {}
            return pipelined(rule, mesh(component=config.devices // config.split, **axes))
        if config.devices > 1:
            rule = parallel.data_parallel(rule, mesh(data=config.devices))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"--devices={config.devices}: {error}") from None
    return parallel.ensemble(rule, config.seeds) if config.seeds > 1 else rule
