"""Next-token loss that never holds all logits: only labelled positions, a chunk at a time.

With a frozen head the gradient with respect to the hidden states is softmax minus one-hot, times the head. It is made in
the forward pass while the chunk's logits are there, so that neither logits nor their gradient outlive their chunk.
"""

import torch
from torch import nn
from torch.nn import functional

from playground.data.batch import IGNORED

CHUNK_LOGITS = 2**24  # logits in memory at once: 64 MiB in float32

SCALED = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_multiplier_scale", "logits_soft_cap")


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, labels, chunk):
        total = hidden.new_zeros((), dtype=torch.float32)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(labels), chunk):
            part, wanted = hidden[start : start + chunk], labels[start : start + chunk, None]
            logits = functional.linear(part, weight, bias).float()
            total += (logits.logsumexp(-1) - logits.gather(1, wanted).squeeze(1)).sum()
            if gradient is not None:
                share = logits.softmax(-1).scatter_add_(1, wanted, logits.new_full(wanted.shape, -1.0))
                gradient[start : start + chunk] = share.to(hidden.dtype) @ weight
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return gradient * upstream.to(gradient.dtype), None, None, None, None


def chunked_loss(hidden: torch.Tensor, head: nn.Linear, labels: torch.Tensor) -> torch.Tensor:
    """Sum of the cross-entropies, in nats, of predicting each labelled token from the position before it.

    hidden: (rows, tokens, width) after the last norm; labels: (rows, tokens), -100 where none. The head is frozen.
    """
    ahead = labels[:, 1:]
    kept = ahead != IGNORED
    chunk = max(16, CHUNK_LOGITS // head.weight.shape[0])
    return _Chunked.apply(hidden[:, :-1][kept], head.weight, head.bias, ahead[kept], chunk)


class Loss:
    """The loss of one model: chunked where that is exact, the model's own everywhere else.

    `chunked` says which. It is exact where logits are the plain frozen head over the decoder's output, which is tried
    out once on a few tokens against the model's own logits rather than believed from a list of names.
    """

    def __init__(self, model):
        causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.model, self.head = model, causal.get_output_embeddings()
        self.decoder = getattr(causal, causal.base_model_prefix, None)
        self.chunked = self._exact(causal)

    def __call__(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
        """Summed loss in nats over the labelled tokens of a batch, and how many there are."""
        labels = batch["labels"]
        count = int((labels[:, 1:] != IGNORED).sum())
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"} | {"use_cache": False}
        if self.chunked:
            return chunked_loss(self.decoder(**inputs)[0], self.head, labels), count
        logits = self.model(**inputs).logits[:, :-1].float()
        flat = functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum")
        return flat, count

    def _exact(self, causal) -> bool:
        plain = type(self.head) is nn.Linear and not self.head.weight.requires_grad and self.decoder is not None
        if not plain or any(getattr(causal.config, name, None) for name in SCALED):
            return False
        ids = torch.arange(3, 11, device=self.head.weight.device)[None]
        with torch.no_grad():
            ours = self.head(self.decoder(input_ids=ids, use_cache=False)[0])
            theirs = self.model(input_ids=ids, use_cache=False).logits
        return torch.equal(ours, theirs.to(ours.dtype))
