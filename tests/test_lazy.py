"""Names are imported at their first use: they are those that type checkers see, and help needs no JAX."""

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import jaxlocal as jl
import jaxlocal.app


@pytest.mark.parametrize("package", [jl, jl.app], ids=lambda package: package.__name__)
def test_the_names_are_those_that_type_checkers_see(package):
    imports = [
        (statement.module, alias.name)
        for branch in ast.parse(Path(package.__file__).read_text()).body
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for statement in branch.body
        for alias in statement.names
    ]
    assert sorted(name for _, name in imports) == sorted({*package.__all__} - {"__version__"})
    for module, name in imports:
        try:
            wanted = importlib.import_module(f"{module}.{name}")
        except ImportError:  # it is no module
            wanted = getattr(importlib.import_module(module), name)
        assert package.__getattr__(name) is wanted
    assert {*package.__all__} <= {*dir(package)}
    with pytest.raises(AttributeError, match=rf"module '{package.__name__}' has no attribute 'nothing'"):
        package.nothing  # noqa: B018


PROBE = """
import os, sys
from jaxlocal.app import cli

help = ["--help", "--version", *(f"{command} --help" for command in cli.COMMANDS)]
for line in [*help, "train --epohcs 3", "train --epochs x", "tain"]:
    assert cli.main(line.split()) == (0 if line in help else 2), line
assert "XLA_FLAGS" not in os.environ
assert not {"jax", "numpy"} & {*sys.modules}
"""


def test_help_and_mistyped_flags_import_no_jax_and_a_variable_leaves_the_flags_alone():
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    result = subprocess.run(
        [sys.executable, "-c", PROBE],
        env=environment | {"JAXLOCAL_XLA_FLAGS": "0"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0 and len(result.stderr.splitlines()) == 3, result.stderr
