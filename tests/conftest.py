"""For all tests: no network, no more threads than tiny models can use, and a tiny decoder in a folder."""

import os
from pathlib import Path

# Before anything imports the libraries that read them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that asks the hub for something fails at once
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # or it warns in every test that starts a process

import pytest
import torch

from gemma_encoder.testing import tiny_decoder

if "OMP_NUM_THREADS" not in os.environ:
    torch.set_num_threads(1)  # layers of 32 units: more threads only wait for one another


@pytest.fixture(scope="session")
def decoder_folder(tmp_path_factory) -> Path:
    """A Gemma 3 of four layers with random weights, as transformers saves it."""
    folder = tmp_path_factory.mktemp("decoders") / "tiny"
    decoder = tiny_decoder("gemma3")
    decoder.backbone.save_pretrained(folder)
    decoder.tokenizer.save_pretrained(folder)
    return folder
