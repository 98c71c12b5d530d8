"""A decoder and an encoder in folders, which a test may spoil."""

from pathlib import Path

import pytest
from folder_samples import encoder_of

from gemma_encoder.pooling import attention
from gemma_encoder.testing import tiny_decoder


@pytest.fixture
def decoder_folder(tmp_path) -> Path:
    decoder = tiny_decoder("gemma3")
    decoder.backbone.save_pretrained(tmp_path / "decoder")
    decoder.tokenizer.save_pretrained(tmp_path / "decoder")
    return tmp_path / "decoder"


@pytest.fixture
def folder(tmp_path) -> Path:
    encoder_of(pooling=attention("query", 2)).save_pretrained(tmp_path / "model")
    return tmp_path / "model"
