"""Bartunov et al., Table 2 and Figure 3: ImageNet.

Its images are not available here, but whoever has them can train every row. Measured are the parameters, the memory and
the time of a step of each method on the paper's locally connected net, with 224×224 pixels and 1000 classes; and how
many images per second the loader reads from a folder of JPEG files.

    python -m experiments.papers.bartunov.table2 --rows train/bp --data ~/imagenet
"""

import os
import statistics
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxlocal as jl
from experiments.lab import records
from experiments.lab.experiment import Budget, CannotRun, Experiment, Job, Option, Outcome, Recorded, Task
from experiments.lab.main import main
from experiments.lab.records import Row
from experiments.lab.training import Steps
from experiments.lab.workers import take_turns
from experiments.papers.bartunov import imagenet, shared
from experiments.papers.bartunov.imagenet import CLASSES, PAPER, SIZE
from jaxlocal import flags
from jaxlocal.costs import memory
from jaxlocal.data import Splits
from jaxlocal.data.streaming import stream
from jaxlocal.training.learner import SHORTEST

BATCH = 32  # of the loader
LEAST_IMAGES = 2 * BATCH  # enough for a batch after a tenth each is set aside for validation and test
FOLDERS = 8  # classes of the loader's images
REPEATS = 3
GIB = 2**30


class Method(NamedTuple):
    """A method with a batch size, and its compiled step; no array is allocated yet."""

    rule: jl.Rule
    batch: tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]
    params: jl.Params  # shapes
    step: Any
    seconds: float  # of the compilation
    steps: int  # after which all weights have been trained

    @property
    def gigabytes(self) -> float:
        """The memory of a step, in GiB."""
        return memory(self.step) / GIB


def compiled(name: str, batch_size: int) -> Method:
    """A method with the paper's settings."""
    rule = shared.make(imagenet.setup_of(), name, Steps(epoch=1, total=1))
    x, y = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((batch_size, SIZE, SIZE, 3), (batch_size, CLASSES)))
    params = jax.eval_shape(rule.init, jax.random.key(0), (x, y))
    began = time.perf_counter()
    step = jax.jit(rule.update, donate_argnums=0).lower(params, (x, y)).compile()
    seconds = time.perf_counter() - began
    return Method(rule, (x, y), params, step, seconds, steps=2 if name.endswith("_alternating") else 1)


def timed(method: Method) -> list[float]:
    """Seconds of a step, measured several times."""
    x, y = method.batch
    batch = jax.random.uniform(jax.random.key(1), x.shape), jax.nn.one_hot(jnp.arange(len(y)) % CLASSES, CLASSES)
    params = jax.jit(method.rule.init)(jax.random.key(0), batch)

    def steps() -> float:
        nonlocal params
        began = time.perf_counter()
        for _ in range(method.steps):
            params = method.step(params, batch)
        jax.block_until_ready(params)
        return (time.perf_counter() - began) / method.steps

    return take_turns({"steps": steps}, REPEATS, warm_up=1)["steps"]


NOT_MEASURED = dict.fromkeys(
    (
        *("effective weights, millions", "affiliated, millions", "memory, GiB", "compilation, s"),
        *("a step, s", "images/s"),
    )
)


def measure(name: str, batch_size: int, gigabytes: float) -> Row:
    """A method's row; without time if its step needs more memory than `gigabytes`."""
    method = compiled(name, batch_size)
    counts = jl.diagnostics.parameter_counts(method.rule, method.params)
    seconds = timed(method) if method.gigabytes <= gigabytes else None
    return {
        "method": name,
        "effective weights, millions": counts.effective / 1e6,
        "affiliated, millions": counts.affiliated / 1e6,
        "memory, GiB": round(method.gigabytes, 3),
        "compilation, s": round(method.seconds, 1),
        "a step, s": seconds and records.spread(seconds),
        "images/s": seconds and batch_size / statistics.median(seconds),
    }


def step(name: str, task: Task) -> Iterator[Outcome]:
    """Measure a step of a method."""
    settings = {
        "image size": SIZE,
        "repeats": REPEATS,
        "classes": CLASSES,
        "batch_size": task.budget["batch_size"],
        "gigabytes": task.options["gigabytes"],
    }
    row = measure(name, task.budget["batch_size"], task.options["gigabytes"])
    yield Outcome([row], settings, task.budget, f"{name}: measured")


def loader(task: Task) -> Iterator[Outcome]:
    """Measure how fast images go from their files to a step."""
    if (count := task.budget["images"]) < LEAST_IMAGES:
        raise CannotRun(f"--images={count}: too few for a batch of {BATCH}; take {LEAST_IMAGES} or more")
    with TemporaryDirectory() as folder, patch.dict(os.environ, JAXLOCAL_CACHE=f"{folder}/cache"):
        files = Path(folder) / "images"
        draw_pictures(files, count)
        began = time.perf_counter()
        splits = jl.data.load(files, size=SIZE)
        rates: dict[str, Any] = {"decoding, by the first call of load": count / (time.perf_counter() - began)}
        rates["streaming"] = records.spread(streamed(splits))
        for way, bit_by_bit in (("streamed", True), ("all on the device", False)):
            rates[f"fit, {way}"] = records.spread(fitted(splits, bit_by_bit))
        del splits  # its files are mapped into memory
    rows = [{"what": what, "images/s": rate} for what, rate in rates.items()]
    settings = {"image size": SIZE, "repeats": REPEATS, "images": count, "batch_size": BATCH}
    yield Outcome(rows, settings, task.budget, "loader: measured")


def draw_pictures(folder: Path, count: int) -> None:
    """Smooth colours, with so much grain that the files are as large as those of photographs."""
    import PIL.Image

    rng = np.random.default_rng(0)
    for number in range(count):
        small = PIL.Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
        smooth = np.asarray(small.resize((500, 375), PIL.Image.Resampling.BICUBIC), np.float32)
        grain = 16 * rng.standard_normal((*smooth.shape[:2], 1), np.float32)
        file = folder / f"class{number % FOLDERS}" / f"{number}.jpeg"
        file.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(file, quality=90)


def streamed(splits: Splits) -> list[float]:
    """Images per second of an epoch in which nothing is trained."""
    count = len(splits.train[0]) // BATCH * BATCH
    batches = np.random.default_rng(0).permutation(len(splits.train[0]))[:count].reshape(-1, BATCH)
    orders = [batches[at : at + SHORTEST] for at in range(0, len(batches), SHORTEST)]

    def epoch() -> float:
        began = time.perf_counter()
        for _ in stream(splits.train, orders):
            pass
        return count / (time.perf_counter() - began)

    return take_turns({"epoch": epoch}, REPEATS, warm_up=1)["epoch"]


def fitted(splits: Splits, bit_by_bit: bool) -> list[float]:
    """Images per second of training, epoch by epoch."""
    rule = jl.rules.bp(jl.models.mlp(hidden=(), classes=FOLDERS), optax.sgd(1e-6))
    ends: list[float] = []

    def watch(progress: jl.training.Progress) -> None:
        if progress.state:
            ends.append(time.perf_counter())

    jl.training.fit(rule, splits, epochs=1 + REPEATS, batch_size=BATCH, streamed=bit_by_bit, watch=watch)
    return (len(splits.train[0]) // BATCH * BATCH / np.diff(ends)).tolist()


def steps(recorded: Recorded) -> list[Row]:
    """The table: the steps."""
    lines = []
    for name in PAPER:
        record = recorded.records.get(f"steps/{name}")
        measured = record["rows"][0] if record else NOT_MEASURED
        batch = record and record["settings"]["batch_size"]
        lines.append({"method": name, "batch": batch, **{column: measured[column] for column in NOT_MEASURED}})
    return lines


def loading(recorded: Recorded) -> list[Row]:
    """The table of the loader."""
    record = recorded.records.get("loader")
    return record["rows"] if record else [{"what": "not run"}]


EXPERIMENT = Experiment(
    module="papers.bartunov.table2",
    name="bartunov_table2",
    title="Bartunov et al., Table 2 and Figure 3: ImageNet",
    source="Bartunov et al. 2018, Table 2 and Figure 3",
    rows={
        **dict(imagenet.trainings()),
        **{f"steps/{name}": Job(Budget(batch_size=32), Budget(batch_size=2), partial(step, name)) for name in PAPER},
        "loader": Job(Budget(images=4096), Budget(images=2048), loader),
    },
    note=(
        "ImageNet is not available here, so there is no error of ours. The rows `train` and `search` can be run where "
        "it is: `--data` names it in TFDS or as a folder, with a folder of images for each class in train and in val. "
        "`train` takes the settings of Table 5, `search` draws 60 from the ranges of Table 4: each is trained for ten "
        "epochs, and only the best one continues, as the paper says; that it is the best on the validation set, and "
        "that 500 epochs are the end, as on the other sets, is ours. In our copy the table has no names of methods, "
        "so that those of its rows are inferred from their order in Table 1. Figure 3 would show the top-1 error on "
        "images that are held out from training; the paper's has both errors on the test set. The shorter side of an "
        f"image is resized to {SIZE} pixels and its centre cut out (the paper says resized to {SIZE} by {SIZE}), and "
        f"it is standardised by itself; this and the batch size of {shared.BATCH} are ours. The paper left DFA out "
        "because of the size of its feedback; here it has FA's settings. Effective weights are used in prediction, "
        "affiliated ones (feedback, inverses) only in training. Memory is what XLA plans for the compiled step: "
        "arguments, results and temporaries, with the parameters, which are overwritten, counted once. It depends on "
        "the batch, which the table names. The alternating method alternates every step there, not every epoch, and "
        "its seconds are the mean of both kinds of steps. The images of the steps are random. The loader's images are "
        f"random pictures, 500 by 375 pixels and about 100 kB each, in {FOLDERS} folders of JPEG files, resized to "
        f"{SIZE} by {SIZE}. They are decoded once; when they are streamed, in batches of {BATCH}, they come from the "
        "operating system's cache. `fit` trains a linear classifier, and its seconds include the evaluation."
    ),
    tables=(imagenet.errors, steps, loading),
    draw=imagenet.draw,
    options={
        "data": Option("ImageNet: its name in TFDS, or a folder of images", str, "imagenet2012"),
        "gigabytes": Option("time only steps that need up to this many GiB", flags.positive, 16.0),
    },
)

if __name__ == "__main__":
    main(EXPERIMENT)
