"""The notebook works as it stands, and has outputs of the kinds that were committed with it."""

import nbformat
from nbclient import NotebookClient

from tests.conftest import REPOSITORY


def outputs(notebook):
    """The kinds of output that each cell has."""
    each = (cell.get("outputs", []) for cell in notebook.cells)
    return [
        {kind for one in cell for kind in (one.output_type, *one.get("data", []))} for cell in each
    ]


def test_the_notebook_goes_from_a_toy_world_to_an_answer(tmp_path, monkeypatch):
    for variable in ("TMPDIR", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path))
    notebook = nbformat.read(REPOSITORY / "quickstart.ipynb", as_version=4)
    committed = outputs(notebook)
    place = {"metadata": {"path": str(REPOSITORY)}}
    NotebookClient(notebook, resources=place, startup_timeout=600, iopub_timeout=600).execute()
    assert outputs(notebook) == committed
    assert any("image/png" in kinds for kinds in committed)
    assert notebook.cells[-2].outputs[0].data["text/plain"] == "['yes']"
