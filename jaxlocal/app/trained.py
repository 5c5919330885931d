"""Trained networks that come with the library, each with the record of its training."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxlocal.app.build import Built, Data, build_for
from jaxlocal.app.settings import Config
from jaxlocal.data import Splits
from jaxlocal.data.splits import one_hot
from jaxlocal.hints import nearest
from jaxlocal.rule import Params, Rule
from jaxlocal.training.learner import example_batch
from jaxlocal.weights import set_weights

FOLDER = Path(__file__).parents[1] / "trained"  # for each network NAME.npz, its weights, and NAME.json, its record
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


class Pretrained(NamedTuple):
    """A trained network: `rule.predict(params, x)` are its scores."""

    rule: Rule
    params: Params
    record: dict[str, Any]  # command, commit, settings, versions, device, date, and what was measured


def pretrained(name: str) -> Pretrained:
    """A trained network that comes with the library.

    It was trained by the command of its record. The optimizer's state is that of the start, and so is the random key.

    Args:
      name: one of those that `jaxlocal list` prints, such as "digits_al" or "mnist_bp": a data set and a rule.

    Returns:
      (rule, params, record).

    Raises:
      ValueError: there is no network of this name.

    Example:
      >>> rule, params, record = jl.pretrained("digits_bp")
      >>> rule.predict(params, jl.data.digits().test[0][:5]).shape
      (5, 10)
      >>> record["command"].split()[:6]
      ['jaxlocal', 'train', '--rule', 'bp', '--data', 'digits']
    """
    if name not in NAMES:
        raise ValueError(f"name={name!r}: there is no trained network of this name; {nearest(str(name), NAMES)}")
    _, built, params, record = read(name)
    return Pretrained(built.plain, params, record)


def read(name: str) -> tuple[Config, Built, Params, dict[str, Any]]:
    """The settings of a network that comes with the library, what they stand for, its parameters, and its record.

    Two empty images are in place of the data, which may not be on this machine.
    """
    record = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    pair = np.zeros((2, *record["input"]), np.float32), one_hot([0, 0], record["classes"])
    config = replace(Config(**record["settings"]), batch_size=2)
    built = build_for(config, Data(Splits(pair, pair, pair)))
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        weights = dict(file)
    params = built.plain.init(jax.random.key(config.seed), example_batch(built.data.train, 2, None))
    return config, built, set_weights(built.plain, params, weights), record
