"""`app.py` whose demos fine-tune the toy model in TOY_MODEL for a few steps: the guided demo to its end in seconds."""

import os

import app  # first of all: it has Gradio imported quickly
from playground import catalog
from playground.i18n import LANGUAGES

PRESETS = catalog.presets()
for lang in LANGUAGES:
    train = {"max_steps": 4, "batch_size": 4, "eval_rows": 2, "max_seq_length": 128, "sample_every": "off"}
    load = {"model": os.environ["TOY_MODEL"], "bits": 32}
    PRESETS[f"demo-{lang}"]["settings"] = {"load": load, "data": {"source": f"helpdesk.{lang}"}, "train": train}
catalog.presets = lambda: PRESETS

if __name__ == "__main__":
    app.main()
