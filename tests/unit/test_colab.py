"""The notebook that opens the playground on Colab: its cells are valid, and find the program in a zip or repository."""

import ast
import json
import re
import subprocess
import sys
import types
import zipfile

import pytest
from toys import PROJECT

NOTEBOOK = PROJECT / "assets" / "colab" / "playground.ipynb"


@pytest.fixture(scope="module")
def cells():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.fixture
def get_program(cells, tmp_path, monkeypatch):
    """`get_program(repository, uploaded)`: run the first cell in an empty folder, as Colab would."""
    monkeypatch.chdir(tmp_path)

    def run(repository: str = "", uploaded: str = "") -> None:
        files = types.SimpleNamespace(upload=lambda: {uploaded: b""})
        monkeypatch.setitem(sys.modules, "google.colab", types.SimpleNamespace(files=files))
        exec(cells[0].replace('REPOSITORY = ""', f"REPOSITORY = {repository!r}"), {})

    return run


def test_the_cells_install_the_requirements_and_open_the_page(cells):
    program, install, start = cells
    ast.parse(program)
    assert re.fullmatch(r"%pip install -q -r fine-tuning-playground/(requirements\.txt)", install)
    assert start == "%cd fine-tuning-playground\n!python app.py --share"
    flags = subprocess.run([sys.executable, "app.py", "--help"], cwd=PROJECT, capture_output=True, text=True).stdout
    assert "--share" in flags and (PROJECT / "requirements.txt").exists()


@pytest.mark.parametrize("around", ["", "playground-main/"])
def test_an_uploaded_zip_is_unpacked(get_program, tmp_path, around):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(f"{around}app.py", "")
        archive.writestr(f"{around}requirements.txt", "")
    for _ in range(2):  # a second time, what is there stays
        get_program(uploaded="a.zip")
        assert (tmp_path / "fine-tuning-playground" / "app.py").exists()
        assert (tmp_path / "fine-tuning-playground" / "requirements.txt").exists()


def test_a_repository_is_cloned(get_program, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "app.py").write_text("")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], cwd=source, check=True)
    get_program(repository=source.as_uri())
    assert (tmp_path / "fine-tuning-playground" / "app.py").exists()


def test_another_zip_is_refused_in_a_sentence(get_program, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("photo.txt", "")
    with pytest.raises(FileNotFoundError, match=r"no app\.py"):
        get_program(uploaded="a.zip")
