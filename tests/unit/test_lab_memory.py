"""The bit-width lab's memory: predicted with the copies of the weights that it replaces, as it is measured."""

from playground.engine.workbench import Workbench
from playground.lab.question import LabQuestion


def test_the_copies_of_replaced_weights_are_predicted_as_they_are_measured(chosen, tmp_path):
    question = LabQuestion(formats="bf16,nf4", text="The cat sat on the mat. " * 40, answer_tokens=0)
    events = list(Workbench(tmp_path / "runs").lab(chosen(), question))
    memory = {(e["kind"], e["phase"]): e["parts"] for e in events if e["kind"].startswith("memory_") and "phase" in e}
    predicted, measured = memory["memory_predicted", "lab"], memory["memory_measured", "lab"]
    alone = memory["memory_measured", "load"]["weights"]
    assert abs(predicted["weights"] / measured["weights"] - 1) < 0.01
    assert measured["weights"] > 1.3 * alone  # the linear layers a second time
    assert predicted["loss"] > 0
