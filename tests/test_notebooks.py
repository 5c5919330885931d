"""The notebooks run from the first cell to the last, and show what they say."""

import json

import pytest
from helpers import ROOT

FOLDER = ROOT / "docs" / "notebooks"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pictures"),
    [
        ("first-steps", 1),
        ("from-equation-to-curve", 2),
        ("own-rule", 2),
        ("alignment-angles", 2),
        ("reproducing-a-table", 1),
    ],
)
def test_a_notebook_runs(name, pictures, monkeypatch):
    import nbclient
    import nbformat

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", ()) for output in outputs) == pictures


def test_every_notebook_is_run_and_kept_without_its_outputs():
    page = (ROOT / "docs" / "notebooks.md").read_text()
    for path in FOLDER.glob("*.ipynb"):
        assert f'"{path.stem}"' in (ROOT / "tests" / "test_notebooks.py").read_text()
        assert f"(notebooks/{path.name})" in page
        cells = json.loads(path.read_text())["cells"]
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
