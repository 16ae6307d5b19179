"""Next-token loss that never keeps all logits: only those of labelled positions, a chunk at a time.

With a frozen head the gradient with respect to the hidden states is softmax minus one-hot, times the head. It is
computed in the forward pass while the chunk's logits exist, so that neither logits nor their gradient outlive their
chunk.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from playground.data.batch import Batch

CHUNK_LOGITS = 2**24  # logits in memory at once: 64 MiB in float32
LISTED_LOGITS = 2**22  # the same where each token's loss is listed: cross_entropy takes their logarithms beside them
MIN_CHUNK = 16  # positions of a chunk, however large the vocabulary

# names in the configs of families that scale or cap their logits
SCALED = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_multiplier_scale", "logits_soft_cap")


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, positions: Tensor, targets: Tensor, chunk: int
    ) -> Tensor:
        total = hidden.new_zeros((), dtype=torch.float32)
        gradient = torch.zeros_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(targets), chunk):
            at, token = positions[start : start + chunk], targets[start : start + chunk, None]
            logits = functional.linear(hidden[at], weight, bias).float()
            normalizer = logits.logsumexp(-1, keepdim=True)
            total += (normalizer - logits.gather(1, token)).sum()
            if gradient is not None:
                for_logits = logits.sub_(normalizer).exp_().scatter_add_(1, token, logits.new_full(token.shape, -1.0))
                gradient[at] = for_logits.to(hidden.dtype) @ weight
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream.to(gradient.dtype), None, None, None, None, None


def chunked_loss(hidden: Tensor, head: nn.Linear, positions: Tensor, targets: Tensor) -> Tensor:
    """Sum of the cross-entropies, in nats, of predicting `targets` from the hidden states at `positions`.

    hidden: (rows, tokens, width) after the last norm; positions: (labelled,) over rows × tokens, each at most once;
    targets: (labelled,) token ids. The head is frozen.
    """
    return _ChunkedLoss.apply(
        hidden.flatten(0, 1),
        head.weight,
        head.bias,
        positions,
        targets,
        _chunk_size(head.weight.shape[0], CHUNK_LOGITS),
    )


def token_losses(hidden: Tensor, head: nn.Linear, positions: Tensor, targets: Tensor) -> Tensor:
    """The same, but the cross-entropy of each labelled token: (labelled,). Without gradients."""
    hidden, chunk = hidden.flatten(0, 1), _chunk_size(head.weight.shape[0], LISTED_LOGITS)
    parts = zip(positions.split(chunk), targets.split(chunk))
    return torch.cat(
        [
            functional.cross_entropy(
                functional.linear(hidden[at], head.weight, head.bias).float(), token, reduction="none"
            )
            for at, token in parts
        ]
    )


def _chunk_size(vocabulary: int, logits: int) -> int:
    return max(MIN_CHUNK, logits // vocabulary)


class Loss(nn.Module):
    """The summed loss of a batch, in nats over its labelled tokens: chunked where that is exact, else over all logits.

    `chunked` says which. It is exact where logits are the plain frozen head over the decoder's output, which is tried
    once on a few tokens against the model's own logits rather than believed from a list of names. Of a model with an
    encoder, the loss starts from the head's input, for T5's first version scales it on the way there. A module, so that
    what shards a model (FSDP) sees one forward pass with everything in it. tries: false leaves that to `try_chunking`.
    whole_head: a context in which the head can be read, where it is split over processes; gathered_bytes: of it then.
    """

    def __init__(self, model: nn.Module, tries: bool = True):
        super().__init__()
        causal: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
        self.model = model
        self.causal = (causal,)  # in tuples, so that nothing is registered twice as a submodule
        self._encoder = causal.config.is_encoder_decoder
        self._parts = (getattr(causal, causal.base_model_prefix, None), causal.get_output_embeddings())
        self.whole_head: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
        self.gathered_bytes = 0
        self.tried = self.chunked = False
        if tries:
            self.try_chunking()

    def try_chunking(self) -> None:
        """Find out whether the loss can be chunked. Of a model that is split, all processes have to."""
        self.chunked, self.tried = bool(self(None)), True

    def forward(self, batch: Batch | None, return_hidden: bool = False, per_token: bool = False) -> Tensor:
        """The loss, a number; without a batch, whether chunks give the same as all logits.

        return_hidden: the decoder's hidden states (rows, tokens, width) instead; per_token: each labelled token's loss.
        """
        if batch is None:
            return torch.tensor(self._chunking_is_exact(self.causal[0]))
        if return_hidden:
            return self._hidden_states(batch.inputs)
        if self.chunked:
            loss = token_losses if per_token else chunked_loss
            hidden = self._hidden_states(batch.inputs)
            with self.whole_head():
                return loss(hidden, self._parts[1], batch.positions, batch.targets)
        logits = self.model(**batch.inputs, use_cache=False).logits.flatten(0, 1)
        if not per_token:
            return functional.cross_entropy(logits[batch.positions].float(), batch.targets, reduction="sum")
        chunk = _chunk_size(logits.shape[1], LISTED_LOGITS)
        parts = zip(batch.positions.split(chunk), batch.targets.split(chunk))
        return torch.cat([functional.cross_entropy(logits[at].float(), token, reduction="none") for at, token in parts])

    def _hidden_states(self, inputs: dict) -> Tensor:
        """The head's input: (rows, tokens, width)."""
        decoder, head = self._parts
        if decoder is not None:
            return decoder(**inputs, use_cache=False)[0]
        with _bypass(head):
            return self.model(**inputs, use_cache=False).logits

    def _chunking_is_exact(self, causal: Any) -> bool:
        decoder, head = self._parts
        plain = type(head) is nn.Linear and not head.weight.requires_grad and (self._encoder or decoder is not None)
        if not plain or any(getattr(causal.config, name, None) for name in SCALED):
            return False
        if head.weight.is_meta:  # shapes alone, of a prediction: no values to compare
            return not getattr(causal.config, "residual_in_fp32", False)  # a float32 input, as Mamba's
        names = ("input_ids", "decoder_input_ids") if self._encoder else ("input_ids",)
        inputs = dict.fromkeys(names, torch.arange(3, 11, device=head.weight.device)[None])
        with torch.no_grad():
            try:
                from_hidden = head(self._hidden_states(inputs))
            except RuntimeError:  # there is more between the two: another width (RemBERT), another type (Mamba)
                return False
            logits = self.model(**inputs, use_cache=False).logits
        return torch.equal(from_hidden, logits.to(from_hidden.dtype))


@contextlib.contextmanager
def _bypass(head: Any) -> Iterator[None]:
    """Let the head return its input."""
    head.forward = lambda hidden: hidden
    try:
        yield
    finally:
        del head.forward
