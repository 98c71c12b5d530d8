"""A folder with a tiny encoder."""

import pytest

from gemma_encoder import Encoder
from gemma_encoder.testing import tiny_decoder


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("speed") / "model"
    Encoder.from_decoder(tiny_decoder("gemma3"), verify=False, seed=0, labels=("a", "b")).save_pretrained(
        path
    )
    return str(path)
