"""The notebook in examples/ holds what it printed, and runs from its first cell to its last."""

import re

import pytest

from tests.test_examples import EXAMPLES

nbclient = pytest.importorskip("nbclient", reason="needs nbclient")
nbformat = pytest.importorskip("nbformat", reason="needs nbclient")

PATH = EXAMPLES / "eight_steps.ipynb"


def test_it_holds_what_it_printed_and_is_small():
    notebook = nbformat.read(PATH, as_version=4)
    nbformat.validate(notebook)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert PATH.stat().st_size < 200_000


def test_it_runs_from_its_first_cell_to_its_last(tmp_path, monkeypatch):
    for name, value in (("KERAS_SGDR_CACHE", "off"), ("TF_CPP_MIN_LOG_LEVEL", "3"), ("PYTHONWARNINGS", "ignore")):
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(PATH, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(o.get("text", "") for cell in notebook.cells if "outputs" in cell for o in cell.outputs)
    head = float(re.search(r"accuracy of the head alone: ([\d.]+)", printed)[1])
    whole = float(re.search(r"^accuracy ([\d.]+); most confused", printed, re.MULTILINE)[1])
    assert 0.5 < head < whole
    assert whole > 0.85
