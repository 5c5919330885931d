"""Locality masks: which components' updates depend on which components' weights."""

import numpy as np


def everywhere(n: int) -> np.ndarray:
    """The locality mask of weights that every component's update depends on."""
    return np.ones((n, n), bool)


def upward(n: int) -> np.ndarray:
    """The mask of weights that their own component's update and those above it depend on."""
    return np.tril(everywhere(n))


def downward(n: int) -> np.ndarray:
    """The mask of weights that their own component's update and those below it depend on."""
    return np.triu(everywhere(n))


def own(n: int) -> np.ndarray:
    """The mask of weights that only their own component's update depends on."""
    return np.eye(n, dtype=bool)
