"""Token embeddings that train without the rows that never occur."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..encoder import Encoder


def occurring(encoder: Encoder, texts: Sequence[Sequence[int]]) -> list[int]:
    """Tokens of texts, and those that the encoder fills batches up with, sorted."""
    fillers = {0, int(encoder.tokenizer.pad_token_id or 0)}
    return sorted(fillers.union(*texts))


@contextmanager
def only_rows_of(encoder: Encoder, texts: Sequence[Sequence[int]]) -> Iterator[None]:
    """Inside, the embedding table has the rows of these texts' tokens only, and takes the ids it always took.

    A vocabulary has many times the tokens of a task's data, and a dense gradient, the optimiser's moments and
    its step span all of them. What the rows inside learn is what they would learn among all: AdamW treats
    each number by itself. Those outside stay as they are, where weight decay would shrink them a little.

    Args:
        encoder: Stays on its device inside. Its whole table, with what was learnt in it, is back at the end.
        texts: Token ids of every text that the encoder will see inside.
    """
    embedding: Any = encoder.stock_backbone.get_input_embeddings()
    whole, padding = embedding.weight.data, embedding.padding_idx
    used = torch.tensor(occurring(encoder, texts), device=whole.device)
    place = torch.full((len(whole),), -1, device=whole.device)
    place[used] = torch.arange(len(used), device=whole.device)

    def take(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return place[inputs[0]], *inputs[1:]

    trains = embedding.weight.requires_grad
    hook = embedding.register_forward_pre_hook(take)
    embedding.weight = nn.Parameter(whole[used], requires_grad=trains)
    embedding.num_embeddings = len(used)
    embedding.padding_idx = int(place[padding]) if padding is not None and place[padding] >= 0 else None
    try:
        yield
    finally:
        whole[used] = embedding.weight.data
        hook.remove()
        embedding.weight = nn.Parameter(whole, requires_grad=trains)
        embedding.num_embeddings, embedding.padding_idx = len(whole), padding
