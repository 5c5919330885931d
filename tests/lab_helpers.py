"""What the tests of the experiments share."""

from functools import cache

import optax
import pytest

import jaxlocal as jl
from experiments.lab.main import main

COUNT = 128  # examples in each split: the same number, so that the evaluation is compiled once


@cache
def few_digits():
    """The first digits of each split."""
    return jl.data.Splits(*((x[:COUNT], y[:COUNT]) for x, y in jl.data.digits()))


@cache
def tiny_rule(steps=None):
    """A small rule, the same one for all steps, so that it is compiled once."""
    return jl.rules.dfa(jl.models.mlp((8,)), optax.adam(1e-2))


def one_line(run, experiment, flags, capsys, status=2):
    """An experiment's only line on stderr, which ends it with this status."""
    with pytest.raises(SystemExit) as stop:
        run(experiment, flags)
    error = capsys.readouterr().err
    assert stop.value.code == status
    assert error.startswith(f"{experiment.command}: ")
    assert error.count("\n") == 1
    return error.removeprefix(f"{experiment.command}: ").rstrip("\n")


class Here:
    """A worker without a process."""

    def __init__(self, make, *arguments, cores=None):
        self._made = make(*arguments)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def ask(self, method, *arguments):
        return getattr(self._made, method)(*arguments)


__all__ = ["COUNT", "Here", "few_digits", "main", "one_line", "tiny_rule"]
