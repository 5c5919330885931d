"""What the experiments of the direct Kolen-Pollack paper share: its optimizer, and the settings of its 2-conv net."""

import optax

RATE, FEEDBACK_RATE, DECAY = 1e-2, 1e-4, 1e-6  # of the 2-conv net


def sgd(rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """SGD with Nesterov's momentum, as everywhere in the paper."""
    return optax.sgd(rate, momentum=0.9, nesterov=True)


def sgd_in_words(rate: float | str) -> str:
    """The same for a reader."""
    return f"sgd({rate}, momentum 0.9, nesterov)"
