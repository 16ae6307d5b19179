"""The script that repeats a fine-tune as a Jupyter notebook that Colab opens: nbformat 4.5, a step a cell."""

import json
import re

from playground.share.recipe import Recipe
from playground.share.script import ROWS_NAME, requirements, script_text

NAME = "repeat_run.ipynb"
UPLOAD = f"""\
# Puts {ROWS_NAME}, which lies beside this notebook where it was made, on this machine.
import os

if not os.path.exists("{ROWS_NAME}"):
    from google.colab import files

    files.upload()"""
TITLES = {
    "load_model": "## The model",
    "read_rows": "## The rows and their order",
    "learning_rate": "## The learning rate and the loss",
    "train": "## The training loop",
}


def notebook_text(recipe: Recipe, rows_file: bool) -> str:
    """The notebook as JSON. rows_file: whether its rows are in a file beside it."""
    docstring, imports, functions, data = _parts(script_text(recipe, rows_file))
    lines = docstring.split("\n")
    lead = [line for line in lines[1:] if not line.startswith("    ")]
    cells = [
        _markdown(f"# {lines[0]}\n" + "\n".join(lead)),
        _code(f"%pip install -q {' '.join(requirements(recipe)[1:])}"),
        _code(imports),
        *([_code(UPLOAD)] if rows_file else []),
        _code(data.replace("Path(__file__).parent", 'Path(".")')),
    ]
    for name, text in functions:
        cells += [_markdown(TITLES[name])] if name in TITLES else []
        cells.append(_code(text.replace("Path(__file__).parent", 'Path(".")')))
    cells += [_markdown("## Train"), _code(_run(recipe))]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    notebook = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {
            "accelerator": "GPU",
            "colab": {"provenance": []},
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "cells": cells,
    }
    return json.dumps(notebook, ensure_ascii=False, indent=1) + "\n"


def _parts(script: str) -> tuple[str, str, list[tuple[str, str]], str]:
    """(docstring, imports and constants, [(name, source) of each function but main], losses and rows)."""
    _, docstring, code = script.split('"""', 2)
    before, after = code.split("\n\n\n# The loss of each step", 1)
    blocks = re.split(r"\n\n\n(?=def )", before.strip())
    functions = [(re.match(r"def (\w+)", block)[1], block) for block in blocks[1:]]  # type: ignore[index]
    imports = blocks[0].replace("import argparse\n", "")
    data = "# The loss of each step" + after.rsplit('\n\nif __name__ == "__main__":', 1)[0]
    return docstring.strip(), imports, [(name, text) for name, text in functions if name != "main"], data.strip()


def _run(recipe: Recipe) -> str:
    out = "model" if recipe.settings.train.method == "full" else "adapter"
    return "\n".join(
        (
            "tokenizer = AutoTokenizer.from_pretrained(MODEL)",
            "model = load_model(MODEL)",
            "train(model, read_rows(tokenizer))",
            f'model.save_pretrained("{out}")',
            f'tokenizer.save_pretrained("{out}")',
        )
    )


def _markdown(text: str) -> dict:
    return {"cell_type": "markdown", "metadata": {}, "source": text.splitlines(keepends=True)}


def _code(text: str) -> dict:
    lines = [f"{line}\n" for line in text.split("\n")]
    lines[-1] = lines[-1][:-1]
    return {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": lines}
