"""Bartunov et al., Table 2: what ImageNet would take. The images are not here: nothing is trained, and all is measured.

Of each method a step on the paper's locally connected net, 224×224 pixels and 1000 classes: how many weights, how much
memory, how much time. Of the loader, how many images a second come from a folder of JPEG files.
"""

import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxlocal as jl
from experiments.lab import records as results
from experiments.lab.study import Steps
from experiments.papers.bartunov import table1 as bartunov_table1
from experiments.papers.bartunov.table1 import Adam, Best, Part
from jaxlocal import flags
from jaxlocal.data import Splits
from jaxlocal.data.streaming import stream
from jaxlocal.training.learner import SHORTEST

NAME = "bartunov_table2"
TITLE = "Bartunov et al., Table 2: ImageNet"
SIZE, CLASSES = 224, 1000
BATCH, QUICK_BATCH = 32, 2
IMAGES, QUICK_IMAGES = 4096, 2048
FOLDERS = 8  # classes of the loader's images
LEAST_IMAGES = 2 * BATCH  # that a batch is left of, when a tenth each is kept for the other sets
REPEATS = 3
GIB = 2**30
SETTINGS = {"image size": SIZE, "repeats": REPEATS}
# The paper has no settings for DFA, which gets those of FA here; a step takes as long with any.
IMAGENET_LC = {
    "dtp_parallel": Best(Adam(0.000217, 0.9, 0.99, 1e-6), Adam(0.000234, 0.9, 0.999, 1e-6), 0.163359, 0.192835),
    "dtp_alternating": Best(Adam(0.000101, 0.9, 0.99, 1e-8), Adam(0.000064, 0.9, 0.999, 1e-8), 0.03706, 0.097217),
    "sdtp_parallel": Best(Adam(0.000011, 0.9, 0.999, 1e-6), Adam(0.000170, 0.9, 0.999, 1e-8), noise=0.168522),
    "fa": Best(Adam(0.000043, 0.9, 0.99, 1e-4)),
    "dfa": Best(Adam(0.000043, 0.9, 0.99, 1e-4)),
    "bp": Best(Adam(0.000024, 0.9, 0.999, 1e-8)),
    "bp_convnet": Best(Adam(0.000049, 0.9, 0.99, 1e-8)),
}
PAPER = {  # top-1 and top-5 test errors, %
    "dtp_parallel": ("98.34", "94.56"),
    "dtp_alternating": ("99.36", "97.28"),
    "sdtp_parallel": ("99.28", "97.15"),
    "fa": ("93.08", "82.54"),
    "dfa": ("not run", "not run"),
    "bp": ("71.43", "49.07"),
    "bp_convnet": ("63.93", "40.17"),
}
METHODS = tuple(PAPER)
STEPS_NOTE = (
    "ImageNet is not available here, so there is no accuracy of ours. Effective weights predict, affiliated ones "
    "(feedback, inverses) only help in training. Memory is what XLA plans for the compiled step: arguments, results "
    "and temporaries, with the parameters, which are overwritten, counted once. The alternating method takes turns "
    "every step here, not every epoch, and its seconds are the mean of both turns. The images are random, the batch "
    "size is ours. The paper left DFA out for the size of its feedback; it is here with FA's settings."
)
LOADER_NOTE = (
    f"Random pictures, 500 by 375 pixels and about 100 kB each, in {FOLDERS} folders of JPEG files, brought to {SIZE} "
    f"by {SIZE}. They are decoded once; when they are streamed, in batches of {BATCH}, they come from the operating "
    "system's cache. `fit` trains a linear classifier, and its seconds have the evaluation in them."
)
NOTE = f"{STEPS_NOTE} {LOADER_NOTE}"


class Method(NamedTuple):
    """A method at a batch size, and its step as a compiled program: nothing is allocated yet."""

    rule: jl.Rule
    batch: tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]
    params: jl.Params  # shapes
    step: Any
    seconds: float  # of the compilation
    turns: int  # steps until all roles have learnt

    @property
    def gigabytes(self) -> float:
        """What a step needs, in GiB."""
        found = self.step.memory_analysis()
        kept = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
        return (kept + found.temp_size_in_bytes) / GIB


def compiled(name: str, batch_size: int) -> Method:
    """A method with the paper's settings."""
    part = Part("imagenet2012", jl.models.imagenet_lc, IMAGENET_LC, {}, None, jl.models.imagenet_conv)
    rule = bartunov_table1.make(part, name, Steps(epoch=1, total=1))
    x, y = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((batch_size, SIZE, SIZE, 3), (batch_size, CLASSES)))
    params = jax.eval_shape(rule.init, jax.random.key(0), (x, y))
    began = time.perf_counter()
    step = jax.jit(rule.update, donate_argnums=0).lower(params, (x, y)).compile()
    seconds = time.perf_counter() - began
    return Method(rule, (x, y), params, step, seconds, turns=2 if name.endswith("_alternating") else 1)


def timed(method: Method) -> list[float]:
    """Seconds of a step, several times."""
    x, y = method.batch
    batch = jax.random.uniform(jax.random.key(1), x.shape), jax.nn.one_hot(jnp.arange(len(y)) % CLASSES, CLASSES)
    params = jax.jit(method.rule.init)(jax.random.key(0), batch)
    seconds = []
    for _ in range(1 + REPEATS):  # the first one warms up
        began = time.perf_counter()
        for _ in range(method.turns):
            params = method.step(params, batch)
        jax.block_until_ready(params)
        seconds.append((time.perf_counter() - began) / method.turns)
    return seconds[1:]


def measure(name: str, batch_size: int, gigabytes: float) -> results.Row:
    """A method's row; without time where its step needs more memory than that."""
    method = compiled(name, batch_size)
    counts = jl.diagnostics.parameter_counts(method.rule, method.params)
    seconds = timed(method) if method.gigabytes <= gigabytes else None
    top1, top5 = PAPER[name]
    return {
        "method": name,
        "effective weights, millions": counts.effective / 1e6,
        "affiliated, millions": counts.affiliated / 1e6,
        "memory, GiB": round(method.gigabytes, 3),
        "compilation, s": round(method.seconds, 1),
        "a step, s": seconds and results.spread(seconds),
        "images/s": seconds and batch_size / statistics.median(seconds),
        "paper's top-1 error %": top1,
        "paper's top-5 error %": top5,
        "ours": "not run",
    }


def rows(out: Path | None = None) -> list[results.Row]:
    """The table: the steps."""
    return _recorded(out, "steps", "method")


def loading(out: Path | None = None) -> list[results.Row]:
    """Images a second."""
    return _recorded(out, "loader", "way")


TABLES = rows, loading


def _recorded(out: Path | None, name: str, column: str) -> list[results.Row]:
    record = results.found(f"{NAME}/{name}", out)
    return record["rows"] if record else [{column: "not run"}]


def steps(batch_size: int, gigabytes: float, again: bool, path: Path) -> None:
    """Measure the methods that are not recorded yet, and record each."""
    there = results.load(path) if path.exists() and not again else None
    if there and there["settings"]["batch_size"] >= batch_size and len(there["rows"]) == len(METHODS):
        print("steps: recorded before; --again measures anew", flush=True)
        return
    settings = {**SETTINGS, "classes": CLASSES, "batch_size": batch_size, "gigabytes": gigabytes}
    rows = results.begun(path, settings) if there else []
    for name in METHODS[len(rows) :]:
        rows.append(measure(name, batch_size, gigabytes))
        print(f"{name}: measured", flush=True)
        command = f"python -m experiments.{results.module(NAME)} --batch-size {batch_size} --gigabytes {gigabytes}"
        results.record(f"{NAME}/steps", rows, command, settings, note=STEPS_NOTE, out=path)


def loader(images: int, again: bool, path: Path) -> None:
    """Measure the way of so many images from files to a step, unless it is recorded of as many."""
    if path.exists() and not again and results.load(path)["settings"]["images"] >= images:
        print("loader: recorded before; --again measures anew", flush=True)
        return
    with TemporaryDirectory() as folder, patch.dict(os.environ, JAXLOCAL_CACHE=f"{folder}/cache"):
        files = Path(folder) / "images"
        draw_pictures(files, images)
        began = time.perf_counter()
        splits = jl.data.load(files, size=SIZE)
        rates: dict[str, Any] = {"decoding, by the first call of load": images / (time.perf_counter() - began)}
        rates["streaming"] = results.spread(streamed(splits))
        for way, bit_by_bit in (("streamed", True), ("all on the device", False)):
            rates[f"fit, {way}"] = results.spread(fitted(splits, bit_by_bit))
        del splits  # its files are mapped
    rows = [{"what": what, "images/s": rate} for what, rate in rates.items()]
    settings = {**SETTINGS, "images": images, "batch_size": BATCH}
    command = f"python -m experiments.{results.module(NAME)} --images {images}"
    results.record(f"{NAME}/loader", rows, command, settings, note=LOADER_NOTE, out=path)
    print("loader: measured", flush=True)


def draw_pictures(folder: Path, count: int) -> None:
    """Smooth colours with as much grain as makes files of a photograph's size."""
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
    """Images a second of an epoch that nobody learns from."""
    count = len(splits.train[0]) // BATCH * BATCH
    batches = np.random.default_rng(0).permutation(len(splits.train[0]))[:count].reshape(-1, BATCH)
    orders = [batches[at : at + SHORTEST] for at in range(0, len(batches), SHORTEST)]
    rates = []
    for _ in range(1 + REPEATS):
        began = time.perf_counter()
        for _ in stream(splits.train, orders):
            pass
        rates.append(count / (time.perf_counter() - began))
    return rates[1:]


def fitted(splits: Splits, bit_by_bit: bool) -> list[float]:
    """Images a second of training, epoch after epoch."""
    rule = jl.rules.bp(jl.models.mlp(hidden=(), classes=FOLDERS), optax.sgd(1e-6))
    ends: list[float] = []

    def watch(progress: jl.training.Progress) -> None:
        if progress.state:
            ends.append(time.perf_counter())

    jl.training.fit(rule, splits, epochs=1 + REPEATS, batch_size=BATCH, streamed=bit_by_bit, watch=watch)
    return (len(splits.train[0]) // BATCH * BATCH / np.diff(ends)).tolist()


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what is not recorded yet, and print both tables."""
    parser = flags.Parser(
        f"python -m experiments.{results.module(NAME)}", description=f"{__doc__} {STEPS_NOTE} {LOADER_NOTE}"
    )
    add = parser.add_argument
    add("--quick", action="store_true", help=f"batches of {QUICK_BATCH}, and {QUICK_IMAGES} images for the loader")
    add("--batch-size", type=flags.whole, metavar="N", help=f"examples a step (default: {BATCH})")
    add("--images", type=flags.whole, metavar="N", help=f"for the loader (default: {IMAGES})")
    add("--gigabytes", type=flags.positive, default=16.0, metavar="G", help="time a step that needs up to so many GiB")
    add("--again", action="store_true", help="measure what is recorded already, too")
    add("--out", type=flags.folder, metavar="FOLDER", help="record here, not in experiments/records")
    args = parser.parse_args(argv)
    results.code()  # of now: the code may be edited while it runs
    folder = (args.out or results.RESULTS) / NAME
    images = args.images or (QUICK_IMAGES if args.quick else IMAGES)
    if images < LEAST_IMAGES:
        parser.error(f"argument --images: {images} are too few for a batch of {BATCH}; take {LEAST_IMAGES} or more")
    steps(args.batch_size or (QUICK_BATCH if args.quick else BATCH), args.gigabytes, args.again, folder / "steps.json")
    loader(images, args.again, folder / "loader.json")
    for name, note in (("steps", STEPS_NOTE), ("loader", LOADER_NOTE)):
        print(f"\n{results.table(results.load(folder / f'{name}.json')['rows'])}\n\n{note}")


if __name__ == "__main__":
    main()
