"""Train the networks that come with the library: python -m experiments.demos.pretrained [NAME …].

Each is trained by `jaxlocal train`, and written into `jaxlocal/trained` with the record of its training.
"""

import json
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import jaxlocal as jl
from jaxlocal.app import cli, trained
from jaxlocal.files import write_whole

NET = "--model mlp --model-args hidden=[64,64]"
COMMANDS = {
    f"{data}_{rule}": f"jaxlocal train --rule {rule} --data {data} {NET} {budget}"
    for data, rules, budget in (
        ("digits", ("bp", "al", "dfa", "ff"), "--epochs 40"),
        ("mnist", ("bp", "al", "dfa"), "--epochs 20 --batch-size 128"),
    )
    for rule in rules
}


def keep(run: Path, name: str, command: str, folder: Path = trained.FOLDER) -> None:
    """Write the last checkpoint of a run of images, and its record, as a network of the library."""
    rule, params, data = jl.load(run)
    x, y = data.train
    record = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    record["measured"] = record["measured"][0]["parts"]  # after the last epoch
    record |= {"command": command, "input": x.shape[1:], "classes": y.shape[-1]}
    weights: dict[str, Any] = jl.get_weights(rule, params)
    folder.mkdir(exist_ok=True)
    np.savez(folder / f"{name}.npz", **weights)
    write_whole(folder / f"{name}.json", json.dumps(record, indent=2) + "\n")


def main(names: list[str]) -> None:
    """Train the networks of these names, or all."""
    for name in names or COMMANDS:
        command = COMMANDS[name]
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            if code := cli.main([*shlex.split(command)[1:], "--out", str(run)]):
                sys.exit(code)
            keep(run, name, command)


if __name__ == "__main__":
    main(sys.argv[1:])
