"""The report: written from the records alone, and nothing that is recorded is left out."""

import importlib
import re

import pytest
from helpers import ROOT

from experiments.beyond import tuning
from experiments.lab import figures, records, report
from experiments.lab.experiment import Job
from experiments.lab.findings import FINDINGS
from experiments.lab.searched import Searched
from experiments.lab.training import Case
from experiments.papers.al import shared

FILES = [path for path in (ROOT / "experiments").rglob("*.py") if "EXPERIMENT = Experiment(" in path.read_text()]
MODULES = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sorted(FILES)]
EXPERIMENTS = {module: importlib.import_module(module).EXPERIMENT for module in MODULES}
COMPARED = {
    made.name: made
    for made in report.EXPERIMENTS
    if any(isinstance(row, Case | Searched) for row in made.rows.values())
}


def test_the_page_is_what_the_records_say():
    assert report.PAGE.read_text() == report.build(), "python -m experiments.lab.report brings it up to date"
    page = report.PAGE.read_text()
    assert "{" not in page  # every number that a finding names is filled in
    assert "(not run)" not in page, "put what names a row without a record in [[double brackets]]"


def test_an_experiment_says_which_module_it_is():
    assert len(EXPERIMENTS) == 43
    for module, made in EXPERIMENTS.items():
        assert made.command == f"python -m {module.removesuffix('.__main__')}"
        assert made.name in (made.module.removeprefix("papers.").replace(".", "_"), made.module.partition(".")[2]) or (
            made.is_timing
        )


def test_every_experiment_and_every_record_is_on_the_page():
    shown = {made.module for made in report.EXPERIMENTS}
    elsewhere = {made.module for made in EXPERIMENTS.values() if not made.module.startswith(("papers.", "beyond."))}
    assert shown | elsewhere == {made.module for made in EXPERIMENTS.values()}
    others = {made.name for made in EXPERIMENTS.values() if made.module in elsewhere}
    assert {path.name for path in records.FOLDER.iterdir() if path.is_dir()} <= others | report.BY_NAME.keys()
    pages = "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    for picture in figures.PICTURES.glob("*.png"):
        assert f"(pictures/records/{picture.name})" in pages, picture.name


def test_the_papers_number_in_a_record_is_that_of_its_row():
    for made in COMPARED.values():
        for row, line in made.recorded().rows().items():
            if found := line.get("paper"):
                test, std = made.rows[row].paper
                assert found["test"] == pytest.approx(test / 100), (made.name, row)
                assert found["std"] == (std and pytest.approx(std / 100)), (made.name, row)


def test_pictures_show_the_records():
    trained = {"al_figure6.png", "al_figure6_small.png"}  # only a training can draw them again
    assert trained < {picture.name for picture in figures.PICTURES.glob("*.png")}
    for picture in figures.PICTURES.glob("*.png"):
        if picture.name not in trained:
            recorded = figures.drawn_by(source := figures.shown_in(picture)).recorded()
            assert source == figures.source(recorded), f"{picture.name}: python docs/tables.py draws it again"


def test_no_experiment_imports_another():
    """What two of them share is in `lab` or in a module named shared.

    The times to an accuracy alone read the records of another one, and time what that one has trained.
    """
    timings = {"time_to_accuracy", "timed_trainings", "many_devices", "reached"}
    names = {module.removesuffix(".__main__") for module in MODULES}
    for path in (ROOT / "experiments").rglob("*.py"):
        if path.parent.name not in ("lab", "bench") and path.stem not in timings:
            for package, imported in re.findall(r"^from (experiments\S*) import (.*)$", path.read_text(), re.MULTILINE):
                modules = {package, *(f"{package}.{name.strip()}" for name in imported.split(","))}
                assert not modules & names, path


def test_no_number_of_the_findings_is_typed():
    assert FINDINGS.keys() <= report.BY_NAME.keys()
    for name, text in FINDINGS.items():
        assert not re.search(r"\d[.,]\d|\d\s*%", text), name


@pytest.mark.parametrize("name", COMPARED)
def test_the_records_of_a_table_are_its_own(name):
    made = COMPARED[name]
    paths = list((records.FOLDER / name).glob("*.json"))
    assert {path.stem for path in paths} <= made.rows.keys()
    for path in paths:
        record, case = records.load(path), made.rows[path.stem]
        (row,) = record["rows"]
        if isinstance(case, Searched):
            assert row["rate"] == max(row["trials"], key=lambda trial: trial["validation"])["rate"]
            assert [trial["rate"] for trial in row["trials"]] == list(case.cases)
            case = case.cases[row["rate"]]
        assert "uncommitted" not in record["commit"] and record["commit"] != "unknown"
        assert re.match(rf"python -m experiments\.[a-z0-9_.]+ --rows {path.stem} ", record["command"])
        if isinstance(case, Job):  # it has no epochs
            continue
        assert record["settings"].items() >= dict(case.settings).items()
        if "diverged at" in row:
            continue
        assert len(row["history"]) == record["settings"]["epochs"]
        seeds = record["settings"]["seeds"]
        for split in records.SPLITS:
            assert row[split]["mean"] == pytest.approx(sum(row[split]["per_seed"]) / len(seeds), abs=1e-12)
        if case.paper:
            assert row["paper"]["test"] == pytest.approx(case.paper[0] / 100)


def test_unrun_rows_are_listed_as_such(tmp_path):
    page = report.build(tmp_path)
    for made in COMPARED.values():
        for row in made.rows:
            assert re.search(rf"^\| {row} \| [^|]*\| not run: no (time|data) \|", page, re.MULTILINE), row


def test_the_tuned_settings_are_the_searchs_best():
    for rule, setting in shared.TUNED.items():
        rows = records.load(records.place(f"beyond_tuning/{rule}"))["rows"]
        best = tuning.best(rows)
        assert setting == tuning.drawn(rule, best["trial"])
        assert {**best, **setting._asdict()} == {**setting._asdict(), **best}


def test_both_rules_are_searched_with_the_same_budget():
    searches = [records.load(records.place(f"beyond_tuning/{rule}")) for rule in ("bp", "al")]
    assert len({len(search["rows"]) for search in searches}) == 1
    assert len({search["settings"]["epochs"] for search in searches}) == 1


@pytest.mark.parametrize("pair", ["mlp_tuned", "mlp_256_tuned"])
def test_associated_learning_keeps_up_with_backpropagation_on_mnist(pair):
    """The MLP of the paper, both rules with settings of a search of equal budget, equally long: within 0.3 points."""
    rows = COMPARED["al_table2"].recorded().rows()
    bp, al = (rows[f"{pair}_{rule}"] for rule in ("bp", "al"))
    assert len(bp["test"]["per_seed"]) == len(al["test"]["per_seed"]) >= 3
    assert len(bp["history"]) == len(al["history"])
    assert al["test"]["mean"] > bp["test"]["mean"] - 0.003


def test_findings_name_accuracies_and_the_points_between_them(tmp_path):
    for name, accuracy in (("one", 0.5), ("other", 0.4925)):
        row = records.row(name, [dict.fromkeys(records.SPLITS, accuracy)], 1.0)
        records.write(f"a/{name}", [row], "command", {}, out=tmp_path)
    text = "{a/one}, {a/one - a/other}, {a/other - a/one}, {a/none}, {a/one - a/none}"
    assert report.filled(text, tmp_path) == "50.00 %, +0.75 points, -0.75 points, (not run), (not run)"
    text = "One:\n[[it is\n{a/one}]], by {a/one - a/other}[[, and\n{a/none}, by {a/one - a/none}]]. [[Or {a/none}.]]"
    assert report.filled(text, tmp_path) == "One:\nit is\n50.00 %, by +0.75 points."


def test_findings_name_rows_that_there_are():
    for text in FINDINGS.values():
        for name in re.findall(r"[a-z0-9_]+/[a-z0-9_]+", " ".join(re.findall(r"\{[^}]*\}", text))):
            module, row = name.split("/")
            assert row in COMPARED[module].rows, name
