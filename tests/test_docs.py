"""Documents that run: doctests, the code and the commands of all pages, tables, links; and what an import costs."""

import ast
import doctest
import importlib
import importlib.util
import inspect
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import defects
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import OWN_RULE, ROOT, code_blocks, layer_local, slow
from PIL import Image, PngImagePlugin

import jaxlocal as jl
from experiments.lab import figures, records
from experiments.speed import time_to_accuracy, timed_trainings
from jaxlocal import flags
from jaxlocal.app import Config, build, cli, comparison, settings

MODULES = [module.name for module in pkgutil.walk_packages(jl.__path__, "jaxlocal.")]
INTERNAL = {
    "__main__",
    "author",
    "checks",
    "costs",  # on the page of `diagnostics`
    "descent",
    "files",
    "flags",
    "hints",
    "kinds",
    "lazy",
    "locks",
    "memory",
    "outline",
    "programs",
    "targets",
    "text",
    "tokens",
    "transport",
    "version",
}  # These have no page of their own.
PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]


def with_blocks(language):
    return [page for page in PAGES if code_blocks(page, language)]


def script(name):
    """A script of the folder docs, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tables():
    """The script that writes the tables of the pages."""
    return script("tables")


def test_indices_hang_below_the_line_but_not_in_code():
    lowered = script("indices").on_page_content
    html = "ĥ_{l-1} of <code>s_i</code>, head_l(x)ᵀ, <a href='x_i'>ΔB_lᵀ</a> al_4 batch_size<pre>s_i</pre>"
    expected = html.replace("_{l-1}", "<sub>l&minus;1</sub>")
    for name in ("head", "B"):
        expected = expected.replace(f"{name}_l", f"{name}<sub>l</sub>")
    assert lowered(html) == expected


def test_notebooks_open_in_colab_once_the_address_is_known():
    hook = script("colab").on_page_markdown
    page = "| [First steps](notebooks/first-steps.ipynb) | train |\n[Install](install.md)"
    on_github = SimpleNamespace(repo_url="https://github.com/someone/a.fork.git")
    linked = hook(page, on_github)
    in_colab = "https://colab.research.google.com/github/someone/a.fork/blob/main/docs/notebooks/first-steps.ipynb"
    assert f"(notebooks/first-steps.ipynb) ([open in Colab]({in_colab})) | train" in linked
    assert "git+https://github.com/someone/a.fork.git" in linked and linked.count("Colab](") == 1
    for address in (None, "", "https://gitlab.com/someone/jaxlocal"):
        assert hook(page, SimpleNamespace(repo_url=address)) == page
    assert hook("[Install](install.md)", on_github) == "[Install](install.md)"


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name):
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    for test in finder.find(
        importlib.import_module(name), extraglobs={"jax": jax, "jnp": jnp, "np": np, "jl": jl, "optax": optax}
    ):
        runner.run(test)
    assert runner.summarize().failed == 0


# They train, or compile for real; what they call has quick tests of its own.
SLOW_PAGES = "multi-device", "multi-host", "networks", "ranking", "speed", "text", "training", "tutorial", "weights"


def page_case(page):
    return slow(page) if Path(page).stem in SLOW_PAGES else page


@pytest.mark.parametrize("page", [page_case(page) for page in with_blocks("python")])
def test_code_runs(page, tmp_path, monkeypatch):
    """One block after the other in one namespace, as a reader would."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAXLOCAL_CACHE", str(tmp_path / "cache"))
    namespace = {}
    for block in code_blocks(page):
        exec(compile(block, page, "exec"), namespace)


def test_code_for_pytorch_runs(tmp_path, monkeypatch):
    """The blocks marked `py` as well, which need PyTorch."""
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in code_blocks("docs/weights.md", "(?:python|py)"):
        exec(compile(block, "docs/weights.md", "exec"), namespace)


@pytest.mark.parametrize("page", with_blocks("sh"))
def test_commands_are_understood(page, tmp_path, monkeypatch):
    """As far as their flags and names go: nothing is trained. `my_rules.py` holds the first rule of its page."""
    (tmp_path / "my_rules.py").write_text(code_blocks("docs/adding-a-rule.md")[0])
    monkeypatch.chdir(tmp_path)
    checked = []
    for line in "".join(code_blocks(page, "sh")).splitlines():
        words = shlex.split(line.rpartition("&& ")[2])
        while re.match(r"[A-Z_]+=", words[0]):
            words = words[1:]
        if words[0] in ("srun", "mpirun"):
            words = words[words.index("jaxlocal") :]
        if words[0] == "jaxlocal":
            check_command(words[1], words[2:], monkeypatch)
        elif words[:2] == ["python", "-m"]:
            check_module(words[2], words[3:], monkeypatch)
        else:
            assert words[0] in ("pytest", "python"), line
        checked.append(line)
    assert checked


def check_command(name, argv, monkeypatch):
    assert name in cli.COMMANDS
    if name == "list":
        assert not argv
        return
    read = understood(lambda: cli.COMMANDS[name](argv), monkeypatch)
    if name in ("eval", "predict", "plot"):
        assert read.run
        return
    config = settings.from_flags(read, Config())
    rules = getattr(read, "rules", []) or [config.rule]
    for one in comparison.with_own(rules, config).values():
        build.rule_arguments(one.rule, one.rule_args)
    given = build.arguments("--model-args", config.model_args)
    assert given.keys() <= inspect.signature(jl.models.ALL[config.model]).parameters.keys()
    assert set(config.augment) <= build.AUGMENTATIONS.keys()
    if config.data == "digits" and config.devices == config.split == 1:  # else they may not be here
        build.build(config)


class Understood(Exception):  # noqa: N818 - it is no error
    """A command has read its arguments."""


def understood(command, monkeypatch):
    """The arguments that a command reads; it is stopped before it does anything with them."""
    found = flags.Parser._without_unknown

    def stop(parser, read, unknown):
        raise Understood(found(parser, read, unknown))

    with monkeypatch.context() as patch:
        patch.setattr(flags.Parser, "_without_unknown", stop)
        with pytest.raises(Understood) as stopped:
            command()
    return stopped.value.args[0]


def check_module(name, argv, monkeypatch):
    if name == "jaxlocal":
        check_command(argv[0], argv[1:], monkeypatch)
        return
    module = importlib.import_module(name)
    if hasattr(module, "__path__"):  # a package
        module = importlib.import_module(f"{name}.__main__")
    experiment = [module.EXPERIMENT] if hasattr(module, "EXPERIMENT") else []
    read = understood(lambda: module.main(*experiment, argv), monkeypatch)
    if name == "jaxlocal.distributed" and read.module:
        check_module(read.program, read.arguments, monkeypatch)


def test_the_help_of_every_command_is_on_its_page(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    blocks = code_blocks("docs/api/cli.md", "text")
    for command, block in zip(cli.COMMANDS, blocks, strict=True):
        assert cli.main([command, "--help"]) == 0
        assert capsys.readouterr().out == block


@pytest.mark.parametrize("page", with_blocks("yaml"))
def test_settings_are_understood(page, tmp_path):
    for block in code_blocks(page, "yaml"):
        (tmp_path / "settings.yaml").write_text(block)
        build.build(settings.read(tmp_path / "settings.yaml"))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    """Files that are linked or included exist, and headings, too."""
    folder, text = (ROOT / page).parent, (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)):
        path, _, heading = target.partition("#")
        file = folder / path if path else ROOT / page
        if path.startswith("code/"):  # a page that the site makes of this file
            assert (ROOT / path.removeprefix("code/").replace(".md", ".py")).is_file(), target
            continue
        assert file.is_file(), target
        assert not heading or heading in headings(file), target
        if page != "README.md":
            assert (ROOT / "docs") in Path(os.path.abspath(file)).parents, f"{target} is no part of the site"
    for file, section in re.findall(r'^--8<-- "([^":]+):(\w+)"$', text, re.MULTILINE):
        assert (ROOT / file).read_text().count(f"--8<-- [start:{section}]") == 1
        assert (ROOT / file).read_text().count(f"--8<-- [end:{section}]") == 1


def headings(file):
    """As they are in the links to them."""
    lines = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
    return {re.sub(r"[^a-z0-9]+", "-", re.sub(r"[^\w\s-]", "", line.lower())).strip("-") for line in lines}


@pytest.mark.parametrize(("page", "tables"), [("README.md", 1), ("docs/rules.md", 2)])
def test_every_rule_is_in_the_tables(page, tables):
    """Each table of rules has one row for each; the page of rules has the equations and the settings."""
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / page).read_text(), re.MULTILINE)
    assert sorted(rows) == sorted([*jl.rules.ALL] * tables)


def test_every_page_is_in_the_contents_and_every_module_has_one():
    contents = (ROOT / "mkdocs.yml").read_text()
    for page in PAGES[1:]:
        assert page.removeprefix("docs/") in contents
    documented = {
        found for page in PAGES for found in re.findall(r"^::: jaxlocal\.(\w+)", (ROOT / page).read_text(), re.M)
    }
    assert documented == {name.split(".")[1] for name in MODULES} - INTERNAL


def test_the_tests_that_a_page_promises_exist():
    promised = set(re.findall(r"`(test_\w+)`", (ROOT / "CONTRIBUTING.md").read_text()))
    written = {
        name
        for path in (ROOT / "tests").glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    assert len(promised) > 20 and promised <= written


def test_the_page_on_rules_of_ones_own_shows_one_in_under_thirty_lines():
    (source,) = [block for block in code_blocks(OWN_RULE) if "def layer_local" in block]
    assert sum(bool(line.strip()) for line in source.splitlines()) < 35  # with its imports
    (function,) = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    assert function.end_lineno - function.lineno + 1 < 30


def test_the_rule_of_this_page_learns():
    data = jl.data.digits()
    rule = layer_local(jl.models.mlp((64, 64)), optax.adam(1e-3))
    params = jax.jit(rule.init)(jax.random.key(0), data.train)
    for epoch in range(10):
        params, _ = jl.training.epoch(rule, params, data.train, jax.random.key(epoch), 32)
    assert jl.training.accuracy(rule, params, data.test) > 0.9


@pytest.mark.parametrize("page", PAGES)
def test_tables_are_those_of_the_recorded_results(page, tables):
    text = (ROOT / page).read_text()
    assert tables.filled(text) == text, "python docs/tables.py brings them up to date"


WAYS = "both cores", "data-parallel"


def recorded_rows(page, name):
    """The cells of a recorded table on a page, row by row."""
    (table,) = re.findall(rf"^<!-- {name} -->\n(.*?)^<!-- end -->", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def words_of(page):
    """A page without its line breaks."""
    return " ".join((ROOT / page).read_text().split())


def test_numbers_in_prose_are_those_of_the_tables():
    text = words_of("README.md")
    rows = recorded_rows("docs/results.md", "mnist")
    test = {rule: float(accuracy.partition(" ")[0]) for rule, _, _, accuracy, *_ in rows}
    al, bp = test.pop("al"), test.pop("bp")
    assert f"`al` reaches {al:.2f} %, backpropagation {bp:.2f} %, and the others {min(test.values()):.2f} %" in text
    assert f"to {max(test.values()):.2f} %" in text
    speedups = {
        (program, batch): speedup.partition(" ")[0]
        for case, batch, program, _, _, speedup, *_ in recorded_rows("docs/speed.md", "pipeline/speed")
        if case.startswith("two equal components")
    }
    pipeline, ceiling = "pipeline, two devices", "two sequential at once (ceiling)"
    text = words_of("docs/locality.md")
    for batch in ("32", "512"):
        assert f"{speedups[pipeline, batch]} times" in text
    assert f"reach {speedups[ceiling, '32']} and {speedups[ceiling, '512']} times" in text
    costs = {"al": [], "al, paper's codes": []}
    for network, rule, operations, *_ in recorded_rows("docs/lean-measured.md", "costs"):
        if network != "lstm":
            costs.get(rule, []).append(float(operations))
    lean, paper = costs.values()
    for page in ("docs/locality.md", "docs/speed.md"):
        text = words_of(page)
        assert f"{min(paper):.1f} to {max(paper):.1f} times the operations of backpropagation" in text
        assert f"{min(lean):.2f} to {max(lean):.2f} times" in text


def test_the_number_of_components_is_that_of_the_validation_set():
    """`al_N` is named as the most accurate on the validation set, and it is on the test set, too."""
    found = {}
    for problem, contender, *cells in recorded_rows("docs/lean-measured.md", "frontier")[:-2]:  # then a picture follows
        if re.fullmatch(r"al_\d+", contender):
            validation, test, *_ = cells
            found.setdefault(problem, []).append([float(cell.partition(" ")[0]) for cell in (validation, test)])
    several = [lines for lines in found.values() if len(lines) > 1]
    assert len(several) == 6
    for lines in several:
        assert max(lines) == max(lines, key=lambda line: line[1])


def test_what_the_readme_says_of_the_time_to_accuracy_is_in_the_tables():
    """Far sooner with LSTMs, about as soon as 1F1B with convolutions, and level or behind on wide dense layers.

    The first table multiplies epochs by the time of a step, and the second one has whole trainings.
    """
    both, best = "bp, both cores", "bp, 1F1B"
    found = {}
    for row in time_to_accuracy.advantage(time_to_accuracy.EXPERIMENT.recorded()):
        found[row["problem"]] = {way: float(ratio) for way, ratio in row.items() if way.startswith("bp, ")}
    assert all(min(found[name].values()) > 1.5 for name in ("ag_news_10k", "sst2"))
    assert max(found[name][both] for name in ("wide_64", "wide_512")) < 1.1
    assert min(found["cifar"], key=found["cifar"].get) == best
    timed = {"cifar": {}, "sst2": {}, "wide_512": {}}
    for row in timed_trainings.table(timed_trainings.EXPERIMENT.recorded()):
        timed[row["problem"]][row["program"]] = float(re.search(r"[\d.]+", row["times al"])[0])
    near, others = timed["cifar"].pop("bp, 1F1B of 16"), [timed["cifar"][f"bp, {way}"] for way in WAYS]
    assert 0.9 < near < 1.1 and min(others) > 1.2
    assert min(timed["sst2"][f"bp, {way}"] for way in WAYS) > 1.5
    assert timed["wide_512"][f"bp, more rates, {WAYS[0]}"] < 0.8
    readme = words_of("README.md")
    assert "far sooner than any way to run backpropagation on both cores, if the network is made of LSTMs" in readme
    assert "about as soon as the best pipeline of backpropagation, and sooner than the other ways" in readme
    assert "On wide dense layers one program of backpropagation on both cores is level with it or ahead" in readme


def test_a_picture_of_other_records_is_drawn_again(tables, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "PICTURES", tmp_path)
    of_others = PngImagePlugin.PngInfo()
    of_others.add_text("Source", "beyond.pipeline 0123456789abcdef")
    Image.new("L", (1, 1)).save(tmp_path / "al_table1.png", pnginfo=of_others)
    (picture,) = tables.redraw()
    assert figures.shown_in(picture) == figures.source(figures.drawn_by("beyond.pipeline").recorded())
    assert list(tables.redraw()) == []


def test_every_recorded_table_is_shown(tables):
    shown = {page: set(tables.names((ROOT / page).read_text())) for page in PAGES}
    benchmarks = {f"bench/{path.stem}" for path in (records.FOLDER / "bench").glob("*.json")}
    pipelines = {"pipeline/speed", "pipeline/depth", "local_rules"}
    assert shown["docs/lean.md"] == {"label_loss"}
    timings = {"time_to_accuracy", "advantage", "many_devices", "many_devices/checks", "many_devices/efficiency"}
    assert shown["docs/lean-measured.md"] == {"codes", "costs", "device_memory", "frontier"} | timings
    summary = {"costs/al", "frontier/chosen", "advantage", "timed_trainings", "many_devices/gain"}
    assert shown["docs/does-al-pay.md"] == summary
    assert shown["docs/speed.md"] == benchmarks | pipelines | {"bench", "speed/compile"}
    assert shown["docs/results.md"] == {"claims", "digits", "mnist", "papers", "speed/fit"}


def test_the_list_of_defects_is_up_to_date():
    """Each snippet is found exactly once, each test exists, each rule has two; the script itself runs the tests."""
    for defect in defects.DEFECTS:
        assert (ROOT / "jaxlocal" / defect.file).read_text().count(defect.before) == 1, defect.name
        file, function = defect.test.partition("[")[0].split("::")
        assert f"\ndef {function}(" in (ROOT / "tests" / file).read_text(), defect.name
    for rule in jl.rules.ALL:
        assert sum(defect.name.startswith(f"{rule}:") for defect in defects.DEFECTS) >= 2


@pytest.mark.xdist_group("together")
def test_the_tests_of_a_group_run_in_one_process(request):
    """They share what they compile. With pytest 9.2, pytest-xdist 3.8 leaves the groups out without a word."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        assert request.node.nodeid.endswith("@together"), "install pytest below 9.2"


def test_import_brings_no_heavy_packages():
    heavy = "tensorflow", "tensorflow_datasets", "matplotlib", "sklearn", "scipy.special", "torch", "PIL", "grain"
    heavy += ("tqdm", "safetensors")
    code = f"from jaxlocal import *; import sys; print([name for name in {heavy} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"


def test_readme_commands_are_those_of_continuous_integration():
    ci = (ROOT / ".ci" / "run").read_text()
    commands = [
        line for block in code_blocks("README.md", "sh") for line in block.splitlines() if "pip install -e" in line
    ]
    assert commands == ["pip install -e . && jaxlocal train", "pip install -e '.[test]' && pytest"]
    for command in commands:
        assert command in ci
