# Development commands; `just` lists them. Needs `pip install -e '.[dev]'`.

[private]
default:
    @just --list --unsorted

# The whole suite, as README.md has it
test *arguments:
    python -m pytest {{arguments}}

# Tests without the slow ones: about four minutes on two cores
fast *arguments:
    python -m pytest -m "not slow" {{arguments}}

# The whole suite, and more cases of what it shows: further families, bit widths and languages
exhaustive *arguments:
    python -m pytest --exhaustive {{arguments}}

# Check style
lint:
    ruff check .
    ruff format --check .

# Rewrite files in the project's style
format:
    ruff check --fix .
    ruff format .

# Check types
types:
    mypy

# Run one benchmark: `just bench train_cpu --rounds 1`
bench name *arguments:
    python tests/bench/{{name}}.py {{arguments}}

# Take a picture of every tab, in both languages
shots *arguments:
    python tests/shots.py {{arguments}}

# Print rooms and their imports
graph:
    python tests/import_graph.py

# Renew what documents have from the code: the picture of the rooms and the table of files
documents:
    python tests/import_graph.py --update playground/README.md
    python tests/file_table.py --update playground/README.md
