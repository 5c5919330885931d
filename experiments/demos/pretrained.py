"""Train the networks that come with the library: python -m experiments.demos.pretrained [NAME …].

Each is trained by `jaxlocal train`, and written into `jaxlocal/trained` with the record of its training.
"""

import shlex
import sys
import tempfile
from pathlib import Path

from jaxlocal.app import cli, trained

NET = "--model mlp --model-args hidden=[64,64]"
COMMANDS = {
    f"{data}_{rule}": f"jaxlocal train --rule {rule} --data {data} {NET} {budget}"
    for data, rules, budget in (
        ("digits", ("bp", "al", "dfa", "ff"), "--epochs 40"),
        ("mnist", ("bp", "al", "dfa"), "--epochs 20 --batch-size 128"),
    )
    for rule in rules
}


def main(names: list[str]) -> None:
    """Train the networks of these names, or all."""
    for name in names or COMMANDS:
        command = COMMANDS[name]
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            if code := cli.main([*shlex.split(command)[1:], "--out", str(run)]):
                sys.exit(code)
            trained.keep(run, name, command)


if __name__ == "__main__":
    main(sys.argv[1:])
