"""Texts, encoders and scores for the tests of folders."""

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from gemma_encoder.encoder import Encoder
from gemma_encoder.testing import tiny_decoder
from gemma_encoder.text import TextConfig

TEXTS = [
    "a",
    "",
    "the film is good\nbad",
    "not very " * 30,
    'it\'s {braced} "quoted" {{ x }} {% y %} \\n 😀',
    "a literal <eos> inside <bos> <pad>",
]
PAIRS = [(first, second) for first in TEXTS[:4] for second in TEXTS] + [("document " * 40, "b")]
SINGLE = TextConfig("{text}", max_length=32)
PAIR = TextConfig('  "query": {text}\n{document}: {text_pair} \n', max_length=48)


def encoder_of(family: str = "gemma3", **options) -> Encoder:
    encoder = Encoder.from_decoder(tiny_decoder(family), verify=False, seed=0, **{"text": SINGLE, **options})
    with torch.no_grad():  # biases and norms start at values that would hide a swapped or missing tensor
        for parameter in [*encoder.pooler.parameters(), *encoder.head.parameters()]:
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
    return encoder


def with_lora(encoder: Encoder, **options) -> Encoder:
    torch.manual_seed(0)
    lora = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False, **options)
    encoder.backbone = get_peft_model(encoder.backbone, lora)
    return encoder.eval()


def scores(encoder: Encoder, rows) -> np.ndarray:
    with torch.no_grad():
        return encoder(**encoder.collate(encoder.tokenize(rows).input_ids)).logits.numpy()


def served(folder, rows, **options) -> np.ndarray:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = sentence_transformers.CrossEncoder(str(folder), device="cpu", **options)
    # A list of strings would be one pair: single texts of a batch go in as messages.
    rows = [row if isinstance(row, tuple) else [{"role": "user", "content": row}] for row in rows]
    return model.predict(rows, batch_size=5).reshape(len(rows), -1)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
