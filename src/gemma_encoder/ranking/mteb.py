"""What mteb asks of a re-ranker, beside scores: the texts of its batches, and who the model is.

`Reranker.predict` and `Reranker.mteb_model_meta` are the two members of mteb 2's `CrossEncoderProtocol`; this
is what they need for it. mteb itself is imported only to build its `ModelMeta`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

import torch

from ..encoder import Encoder
from ..extras import library
from .list_records import join_title
from .lists import CandidateList

Batch = Mapping[str, Any]


def candidate_lists(queries: Iterable[Batch], documents: Iterable[Batch]) -> Iterator[CandidateList]:
    """Lists of mteb's pairs: what stands together with the same query is one list.

    Args:
        queries: Batches with `text`, the query of each pair (with its instruction, if the data have one).
        documents: As many documents, in batches of any size: `text`, or the parts that mteb made it of,
            `body` and `title`, which are joined as in lists of files.

    Raises:
        ValueError: There are not as many of one as of the other.
    """
    texts = (text for batch in queries for text in batch["text"])
    pairs = zip(texts, _documents(documents), strict=True)
    for number, (query, group) in enumerate(groupby(pairs, key=lambda pair: pair[0])):
        found = tuple(document for _, document in group)
        yield CandidateList(str(number), query, tuple(map(str, range(len(found)))), found)


def model_meta(encoder: Encoder, name: str) -> Any:
    """mteb's `ModelMeta` of an encoder; what is not known of it is None.

    The revision is a hash of options and weights: mteb keeps results by name and revision, and must not give
    those of another model that had the same folder before.

    Args:
        encoder: The encoder.
        name: `organisation/model`, or only the model's name, which mteb does not allow: `gemma-encoder` is
            put before it then.

    Raises:
        ConfigError: mteb is not installed.
    """
    weights = list(encoder.parameters())
    embeddings: Any = encoder.stock_backbone.get_input_embeddings()
    return library("mteb.models", extra="mteb").ModelMeta.create_empty(
        overwrites={
            "name": name if "/" in name else f"gemma-encoder/{name}",
            "revision": fingerprint(encoder),
            "n_parameters": sum(each.numel() for each in weights),
            "n_embedding_parameters": embeddings.weight.numel(),
            "memory_usage_mb": round(sum(each.numel() * each.element_size() for each in weights) / 2**20, 1),
            "max_tokens": encoder.config.text.max_length,
            "framework": ["PyTorch"],
            "use_instructions": False,
            "adapted_from": encoder.config.decoder or None,
            "modalities": ["text"],
            "model_type": ["cross-encoder"],
        }
    )


def fingerprint(encoder: Encoder) -> str:
    """16 hexadecimal digits of options and weights; every weight counts, in the type it is loaded in."""
    from datasets.fingerprint import Hasher

    parts = [json.dumps(encoder.config.to_dict(), sort_keys=True)]
    for name, tensor in sorted(encoder.state_dict().items()):
        values = memoryview(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())  # no copy
        parts.append(f"{name} {tuple(tensor.shape)} {tensor.dtype} {Hasher.hash_bytes([values])}")
    return Hasher.hash_bytes("\n".join(parts).encode())


def _documents(batches: Iterable[Batch]) -> Iterator[str]:
    for batch in batches:
        if "body" in batch and "title" in batch:
            yield from map(join_title, batch["title"], batch["body"])
        else:
            yield from batch.get("body", batch["text"])
