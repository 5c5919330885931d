"""The report: written from the records alone, and nothing that is recorded is left out."""

import importlib
import re

import pytest
from helpers import ROOT

from experiments.beyond import tuning as beyond_tuning
from experiments.lab import records as results
from experiments.lab import report, study
from experiments.lab.findings import FINDINGS
from experiments.papers.al import shared as associated

FILES = sorted([*(ROOT / "experiments" / "papers").glob("*/*.py"), *(ROOT / "experiments" / "beyond").glob("*.py")])
MODULES = [importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts)) for path in FILES]
STUDIES = {module.STUDY.name: module.STUDY for module in MODULES if hasattr(module, "STUDY")}
OTHERWISE_SHOWN = {"bench", "pipeline", "speed"}  # on pages of their own


def test_the_page_is_what_the_records_say():
    assert report.PAGE.read_text() == report.build(), "python -m experiments.lab.report brings it up to date"


def test_every_study_and_every_record_is_on_the_page():
    shown = {report.name(module) for module in report.SECTIONS}
    assert shown >= set(STUDIES)
    assert {path.name for path in results.RESULTS.iterdir() if path.is_dir()} - OTHERWISE_SHOWN <= shown
    page = report.PAGE.read_text()
    for picture in results.PICTURES.glob("*.png"):
        assert f"(pictures/papers/{picture.name})" in page, picture.name


def test_no_number_of_the_findings_is_typed():
    assert FINDINGS.keys() <= {report.name(module) for module in report.SECTIONS}
    for name, text in FINDINGS.items():
        assert not re.search(r"\d[.,]\d|\d\s*%", text), name


@pytest.mark.parametrize("name", STUDIES)
def test_a_studys_records_are_its_own(name):
    made = STUDIES[name]
    paths = list((results.RESULTS / name).glob("*.json"))
    assert {path.stem for path in paths} <= made.cases.keys()
    for path in paths:
        record, case = results.load(path), made.cases[path.stem]
        (row,) = record["rows"]
        assert "uncommitted" not in record["commit"] and record["commit"] != "unknown"
        assert re.match(rf"python -m experiments\.[a-z0-9_.]+ --rows {path.stem} ", record["command"])
        assert record["settings"].items() >= dict(case.told).items()
        assert len(row["history"]) == record["settings"]["epochs"]
        seeds = record["settings"]["seeds"]
        for split in results.SPLITS:
            assert row[split]["mean"] == pytest.approx(sum(row[split]["per_seed"]) / len(seeds), abs=1e-12)
        if case.paper:
            assert row["paper"]["test"] == pytest.approx(case.paper[0] / 100)


def test_unrun_rows_are_listed_as_such(tmp_path):
    page = report.build(tmp_path)
    for name in STUDIES:
        for row in STUDIES[name].cases:
            assert re.search(rf"^\| {row} \| [^|]*\| not run \|", page, re.MULTILINE), row


def test_the_tuned_settings_are_the_searchs_best():
    for rule, setting in associated.TUNED.items():
        rows = results.load(results.RESULTS / beyond_tuning.NAME / f"{rule}.json")["rows"]
        best = beyond_tuning.best(rows)
        assert setting == beyond_tuning.drawn(rule, best["trial"])
        assert {**best, **setting._asdict()} == {**setting._asdict(), **best}


def test_both_rules_are_searched_with_the_same_budget():
    searches = [results.load(results.RESULTS / beyond_tuning.NAME / f"{rule}.json") for rule in ("bp", "al")]
    assert len({len(search["rows"]) for search in searches}) == 1
    assert len({search["settings"]["epochs"] for search in searches}) == 1


@pytest.mark.parametrize("pair", ["mlp_tuned", "mlp_256_tuned"])
def test_associated_learning_keeps_up_with_backpropagation_on_mnist(pair):
    """The MLP of the paper, both rules with settings of a search of equal budget, equally long: within 0.3 points."""
    rows = study.recorded(STUDIES["al_table2"])
    bp, al = (rows[f"{pair}_{rule}"] for rule in ("bp", "al"))
    assert len(bp["test"]["per_seed"]) == len(al["test"]["per_seed"]) >= 3
    assert len(bp["history"]) == len(al["history"])
    assert al["test"]["mean"] > bp["test"]["mean"] - 0.003


def test_findings_name_accuracies_and_the_points_between_them(tmp_path):
    for name, accuracy in (("one", 0.5), ("other", 0.4925)):
        row = results.row(name, [dict.fromkeys(results.SPLITS, accuracy)], 1.0)
        results.record("a", [row], "command", {}, out=tmp_path / "a" / f"{name}.json")
    text = "{a/one}, {a/one - a/other}, {a/other - a/one}, {a/none}, {a/one - a/none}"
    assert report.filled(text, tmp_path) == "50.00 %, +0.75 points, -0.75 points, (not run), (not run)"


def test_findings_name_rows_that_there_are():
    for text in FINDINGS.values():
        for name in re.findall(r"[a-z0-9_]+/[a-z0-9_]+", " ".join(re.findall(r"\{[^}]*\}", text))):
            module, row = name.split("/")
            assert row in STUDIES[module].cases, name
