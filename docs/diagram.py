"""Draw the picture of the README, which shows how four rules teach a network: python docs/diagram.py."""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

PICTURE = Path(__file__).parent / "pictures" / "rules.png"
FORWARD, ERROR, TARGET = "#3b4252", "#c0392b", "#1f6fb2"
LAYERS = (1.0, 2.0, 3.0)  # the heights of the layers
INPUT, OUTPUT = 0.0, 4.0  # the heights of the input and of the output
HALF = 0.21  # half the height of a box

Point = tuple[float, float]


def draw() -> None:
    """Draw the four panels side by side and save them."""
    panels = backpropagation, direct_feedback, target_propagation, associated_learning
    figure, all_axes = plt.subplots(1, len(panels), figsize=(13, 5))
    for axes, panel in zip(all_axes, panels, strict=True):
        axes.set(xlim=(-1.6, 1.6), ylim=(-1.35, 4.75))
        axes.axis("off")
        panel(axes)
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.01, top=0.99, wspace=0.02)
    figure.savefig(PICTURE, dpi=110, facecolor="white")


def backpropagation(axes: Axes) -> None:
    """The error goes down from layer to layer."""
    caption(axes, "Backpropagation", "Each layer waits for the layer above\nand uses that layer's weights.")
    network(axes, x=-0.3)
    for start, end in ((4.0, 3.0), (3.0, 2.0), (2.0, 1.0)):
        arrow(axes, (0.32, start), (0.32, end), ERROR, bend=-0.55)
    axes.text(0.72, 2.5, "error", color=ERROR, va="center")


def direct_feedback(axes: Axes) -> None:
    """The error goes from the output straight to each layer."""
    text = "The output's error goes straight to\neach layer, through random weights."
    caption(axes, "Direct feedback alignment", text)
    network(axes, x=-0.3)
    for height in LAYERS:
        arrow(axes, (0.32, OUTPUT), (0.32, height), ERROR, bend=-0.4, dashed=True)
    axes.text(1.0, 2.5, "error", color=ERROR, va="center")


def target_propagation(axes: Axes) -> None:
    """Targets come down, and each layer is compared with its own."""
    caption(axes, "Target propagation", "Each layer gets a target from above\nand learns to come closer to it.")
    network(axes, x=-0.65)
    box(axes, (0.75, OUTPUT), "label", TARGET)
    for height in LAYERS:
        box(axes, (0.75, height), "target", TARGET)
    for height in (*LAYERS, OUTPUT):
        compare(axes, -0.03, 0.13, height)
        if height != LAYERS[0]:
            arrow(axes, (0.75, height - HALF), (0.75, height - 1 + HALF), TARGET)


def associated_learning(axes: Axes) -> None:
    """A component is a layer and a code of the label at the same height; nothing comes down."""
    caption(axes, "Associated Learning", "Each component compares its own\ntwo halves. Nothing comes back.")
    box(axes, (-0.65, INPUT), "input", FORWARD, filled=False)
    box(axes, (0.75, INPUT), "label", TARGET, filled=False)
    for number, height in enumerate(LAYERS, start=1):
        box(axes, (-0.65, height), f"layer {number}", FORWARD)
        box(axes, (0.75, height), f"code {number}", TARGET)
        arrow(axes, (-0.65, height - 1 + HALF), (-0.65, height - HALF), FORWARD)
        arrow(axes, (0.75, height - 1 + HALF), (0.75, height - HALF), TARGET)
        compare(axes, -0.03, 0.13, height)
        frame = FancyBboxPatch((-1.42, height - 0.33), 2.94, 0.66, "round,pad=0,rounding_size=0.1", fc="none", ec="0.6")
        frame.set_linestyle(":")
        axes.add_patch(frame)


def caption(axes: Axes, title: str, text: str) -> None:
    """What a panel shows, above and below it."""
    axes.text(0, 4.6, title, ha="center", va="center", fontsize=13, fontweight="bold", color=FORWARD)
    axes.text(0, -0.85, text, ha="center", va="center", fontsize=11, color=FORWARD)


def network(axes: Axes, x: float) -> None:
    """Three layers between input and output."""
    box(axes, (x, INPUT), "input", FORWARD, filled=False)
    box(axes, (x, OUTPUT), "output", FORWARD, filled=False)
    for number, height in enumerate(LAYERS, start=1):
        box(axes, (x, height), f"layer {number}", FORWARD)
    for height in (*LAYERS, OUTPUT):
        arrow(axes, (x, height - 1 + HALF), (x, height - HALF), FORWARD)


def box(axes: Axes, centre: Point, text: str, colour: str, filled: bool = True) -> None:
    """A rounded box with a word in it."""
    x, y = centre
    corner, fill = (x - 0.62, y - HALF), colour if filled else "white"
    axes.add_patch(FancyBboxPatch(corner, 1.24, 2 * HALF, "round,pad=0,rounding_size=0.1", fc=fill, ec=colour))
    axes.text(x, y - 0.01, text, ha="center", va="center", color="white" if filled else colour, fontsize=11)


def arrow(axes: Axes, start: Point, end: Point, colour: str, bend: float = 0.0, dashed: bool = False) -> None:
    """An arrow, straight or bent."""
    style = {"arrowstyle": "-|>", "mutation_scale": 13, "color": colour, "lw": 1.6, "shrinkA": 0, "shrinkB": 0}
    line = "--" if dashed else "-"
    axes.add_patch(FancyArrowPatch(start, end, connectionstyle=f"arc3,rad={bend}", linestyle=line, **style))


def compare(axes: Axes, left: float, right: float, height: float) -> None:
    """The double arrow between two things whose difference is a local loss."""
    style = {"arrowstyle": "<|-|>", "mutation_scale": 9, "color": ERROR, "lw": 1.6, "shrinkA": 0, "shrinkB": 0}
    axes.add_patch(FancyArrowPatch((left, height), (right, height), **style))


if __name__ == "__main__":
    draw()
