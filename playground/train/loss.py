"""Next-token loss that never holds all logits: only labelled positions, a chunk at a time.

With a frozen head the gradient with respect to the hidden states is softmax minus one-hot, times the head. It is made in
the forward pass while the chunk's logits are there, so that neither logits nor their gradient outlive their chunk.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional

from playground.data.batch import Batch

CHUNK_LOGITS = 2**24  # logits in memory at once: 64 MiB in float32

SCALED = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_multiplier_scale", "logits_soft_cap")


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, positions, targets, chunk):
        total = hidden.new_zeros((), dtype=torch.float32)
        gradient = torch.zeros_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(targets), chunk):
            at, token = positions[start : start + chunk], targets[start : start + chunk, None]
            logits = functional.linear(hidden[at], weight, bias).float()
            most = logits.logsumexp(-1, keepdim=True)
            total += (most - logits.gather(1, token)).sum()
            if gradient is not None:
                share = logits.sub_(most).exp_().scatter_add_(1, token, logits.new_full(token.shape, -1.0))
                gradient[at] = share.to(hidden.dtype) @ weight
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return gradient * upstream.to(gradient.dtype), None, None, None, None, None


def chunked_loss(hidden: torch.Tensor, head: nn.Linear, positions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Sum of the cross-entropies, in nats, of predicting `wanted` from the hidden states at `predicts`.

    hidden: (rows, tokens, width) after the last norm; predicts: (labelled,) positions over rows × tokens, each at most
    once; wanted: (labelled,) token ids. The head is frozen.
    """
    chunk = max(16, CHUNK_LOGITS // head.weight.shape[0])
    return _Chunked.apply(hidden.flatten(0, 1), head.weight, head.bias, positions, targets, chunk)


def token_losses(hidden: torch.Tensor, head: nn.Linear, positions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The same, each labelled token's cross-entropy by itself: (labelled,). Nothing is kept for a gradient's sake."""
    hidden, chunk = hidden.flatten(0, 1), max(16, CHUNK_LOGITS // head.weight.shape[0])
    parts = zip(positions.split(chunk), targets.split(chunk))
    return torch.cat(
        [
            functional.cross_entropy(
                functional.linear(hidden[at], head.weight, head.bias).float(), token, reduction="none"
            )
            for at, token in parts
        ]
    )


class Loss(nn.Module):
    """The summed loss of a batch, in nats over its labelled tokens: chunked where that is exact, else over all logits.

    `chunked` says which. It is exact where logits are the plain frozen head over the decoder's output, which is tried
    out once on a few tokens against the model's own logits rather than believed from a list of names. Of a model with an
    encoder, what is predicted is what its head is given, for T5's first version scales it on the way there. A module, so
    that what shards a model (FSDP) sees one forward pass with everything in it.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.model = model
        self.causal = (causal,)  # in tuples, so that nothing is a child twice
        self._encoder = causal.config.is_encoder_decoder
        self._parts = (getattr(causal, causal.base_model_prefix, None), causal.get_output_embeddings())
        self.chunked = self._exact(causal)

    def forward(self, batch: Batch, states: bool = False, each: bool = False) -> torch.Tensor:
        """The loss; or, for `states`, the decoder's hidden states (rows, tokens, width); for `each`, every labelled token's own loss."""
        if states or self.chunked:
            hidden = self._states(batch.inputs)
            return (
                hidden
                if states
                else (token_losses if each else chunked_loss)(hidden, self._parts[1], batch.positions, batch.targets)
            )
        logits = self.model(**batch.inputs, use_cache=False).logits.flatten(0, 1)[batch.positions]
        return functional.cross_entropy(logits.float(), batch.targets, reduction="none" if each else "sum")

    def _states(self, inputs: dict) -> torch.Tensor:
        """What the head is given: (rows, tokens, width)."""
        decoder, head = self._parts
        if decoder is not None:
            return decoder(**inputs, use_cache=False)[0]
        with _let_through(head):
            return self.model(**inputs, use_cache=False).logits

    def _exact(self, causal) -> bool:
        decoder, head = self._parts
        plain = type(head) is nn.Linear and not head.weight.requires_grad and (self._encoder or decoder is not None)
        if not plain or any(getattr(causal.config, name, None) for name in SCALED):
            return False
        if head.weight.is_meta:  # no values to compare: a trial of its shapes alone (memory/)
            return True
        inputs = dict.fromkeys(
            ("input_ids", "decoder_input_ids")[: 1 + self._encoder],
            torch.arange(3, 11, device=head.weight.device)[None],
        )
        with torch.no_grad():
            ours = head(self._states(inputs))
            theirs = self.model(**inputs, use_cache=False).logits
        return torch.equal(ours, theirs.to(ours.dtype))


@contextlib.contextmanager
def _let_through(head: nn.Linear) -> Iterator[None]:
    """Within it, the head hands on what it is given."""
    head.forward = lambda hidden: hidden
    try:
        yield
    finally:
        del head.forward
