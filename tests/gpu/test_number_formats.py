"""The bit-width lab on a GPU: formats are quantized there as on a CPU, kernels compute, the weights are as before."""

import pytest
import torch

from playground.engine.workbench import Workbench
from playground.lab.formats import GGUF, parse_format
from playground.lab.quantize import quantize
from playground.lab.question import LabQuestion
from playground.settings import Settings

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

FORMATS = ("int3", "float4:32", "quantile5", "ternary", "hqq4", "nf4", "fp4:128", "fp8", "mxfp4", "nvfp4")


@pytest.mark.parametrize("name", [*FORMATS, *(f"gguf-{variant}" for variant in GGUF)])
def test_a_format_is_the_same_on_both_devices(name):
    torch.manual_seed(0)
    weight, format = torch.randn(32, 512) * 0.03, parse_format(name)
    here, there = quantize(weight, format), quantize(weight.cuda(), format)
    assert there.bytes == here.bytes and there.values.is_cuda
    differing = (there.values.cpu() - here.values).abs() > 1e-6
    # A value in the middle between two may be rounded to either, and either of two scales that are as good is taken.
    assert differing.float().mean() < 0.05
    errors = [(side.values.cpu() - weight).square().mean().sqrt() for side in (here, there)]
    assert errors[0] == pytest.approx(float(errors[1]), rel=1e-3)


def test_the_lab_measures_with_kernels_and_restores_the_weights(toy, tmp_path):
    settings = Settings().with_values({"load": {"model": str(toy()), "bits": 16, "device": "cuda"}})
    workbench = Workbench(tmp_path)
    list(workbench.load(settings))
    model = workbench.loaded.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    question = LabQuestion("bf16,int3,nf4", text="The quick brown fox jumps over the lazy dog. " * 20, answer_tokens=8)
    points = {e["format"]: e for e in workbench.lab(settings, question) if e["kind"] == "lab_point"}
    assert points["bf16"]["kernel"] and points["bf16"]["tokens_per_s"] > 0
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    kernels = LabQuestion("nf4,bitsandbytes-nf4,bitsandbytes-int8", text=question.text, answer_tokens=8)
    points |= {e["format"]: e for e in workbench.lab(settings, kernels) if e["kind"] == "lab_point"}
    assert points["bitsandbytes-nf4"]["loss"] == pytest.approx(points["nf4"]["loss"], abs=0.02)
    assert points["bitsandbytes-int8"]["bytes"] > points["bitsandbytes-nf4"]["bytes"]
