"""The nets that are trained and their batches, as numbers, so that no library is needed to read them."""

from typing import NamedTuple, Self

_FEEDBACK = "dfa", "fa", "kp", "usf", "brsf", "frsf", "wm", "dkp", "drtp", "pepita"
TARGET_PROP = "tp", "dtp", "sdtp", "ao_sdtp"  # these need an activation with a bounded range, and no pooling
RULES = ("bp", "al", *_FEEDBACK, "predsim", "dgl", "scpl", "ff", *TARGET_PROP)
CLASSES = 10
RATE = 1e-4  # of Adam
SEED = 0


class Net(NamedTuple):
    """A net, its batch, and the number of steps after which a measurement is long enough."""

    batch: int
    inputs: tuple[int, ...]  # shape of an example; an image makes it `jl.models.conv2`
    hidden: tuple[int, ...] = ()
    activation: str = "relu"
    al_hidden: tuple[int, ...] | None = None  # of Associated Learning, if it has other weights in its bridges instead
    steps: int = 10

    def of(self, rule: str) -> Self:
        """The net as this rule trains it."""
        if rule == "al" and self.al_hidden:
            return self._replace(hidden=self.al_hidden)
        return self._replace(activation="tanh") if rule in TARGET_PROP else self

    @property
    def images(self) -> bool:
        """Whether it is the convolutional one."""
        return len(self.inputs) > 1


NETS = {
    "mlp": Net(32, (784,), (1024, 1024, 5120, 1024, 1024), al_hidden=(1024, 1024), steps=10),
    "conv2": Net(128, (32, 32, 3), steps=4),
    "deep": Net(128, (784,), (128,) * 32, "tanh", steps=20),
}
