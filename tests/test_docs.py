"""Documents that run: doctests, the README's code; and what importing the library costs and brings along."""

import ast
import doctest
import importlib
import pkgutil
import subprocess
import sys

import defects
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import ROOT, code_blocks, layer_local

import jaxlocal as jl
from experiments import results

MODULES = [module.name for module in pkgutil.walk_packages(jl.__path__, "jaxlocal.")]


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name):
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    for test in finder.find(
        importlib.import_module(name), extraglobs={"jax": jax, "jnp": jnp, "np": np, "jl": jl, "optax": optax}
    ):
        runner.run(test)
    assert runner.summarize().failed == 0


def test_readme_code_runs():
    """One block after the other in one namespace, as a reader would."""
    namespace = {}
    for block in code_blocks("README.md"):
        exec(compile(block, "README.md", "exec"), namespace)


def test_readme_shows_a_rule_in_under_thirty_lines():
    (source,) = [block for block in code_blocks("README.md") if "def layer_local" in block]
    assert sum(bool(line.strip()) for line in source.splitlines()) < 35  # with its imports
    (function,) = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    assert function.end_lineno - function.lineno + 1 < 30


def test_the_readmes_rule_learns():
    data = jl.data.digits()
    rule = layer_local(jl.models.mlp((64, 64)), optax.adam(1e-3))
    params = jax.jit(rule.init)(jax.random.key(0), data.train)
    for epoch in range(10):
        params, _ = jl.training.epoch(rule, params, data.train, jax.random.key(epoch), 32)
    assert jl.training.accuracy(rule, params, data.test) > 0.9


@pytest.mark.parametrize("name", ["digits", "mnist", "pipeline/speed"])
def test_readme_tables_are_those_of_the_recorded_results(name):
    readme = (ROOT / "README.md").read_text()
    shown = readme.split(f"<!-- {name} -->\n")[1].split("<!-- end -->")[0].strip()
    assert shown == results.markdown(results.RESULTS / f"{name}.json")


def test_the_list_of_defects_is_up_to_date():
    """Each still has its place in the code; the script itself shows that they are caught, which takes some minutes."""
    for defect in defects.DEFECTS:
        assert (ROOT / "jaxlocal" / defect.file).read_text().count(defect.before) == 1, defect.name
    for rule in jl.rules.ALL:
        assert sum(defect.name.startswith(f"{rule}:") for defect in defects.DEFECTS) >= 2


def test_import_brings_no_heavy_packages():
    heavy = "tensorflow", "tensorflow_datasets", "matplotlib", "sklearn", "scipy.stats", "torch", "PIL", "grain", "tqdm"
    code = f"import jaxlocal, sys; print([name for name in {heavy} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"


def test_readme_commands_are_those_of_continuous_integration():
    ci = (ROOT / ".ci" / "run").read_text()
    commands = [
        line for block in code_blocks("README.md", "sh") for line in block.splitlines() if "pip install -e" in line
    ]
    assert len(commands) == 2
    for command in commands:
        assert command in ci
