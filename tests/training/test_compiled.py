"""Training by compiled layers."""

import numpy as np
import pytest
from toy_training import arguments, data_of, encoder_of

from gemma_encoder.compiling import why_not_compiled
from gemma_encoder.encoder import Encoder
from gemma_encoder.training import packed_trainer, train

pytestmark = pytest.mark.skipif(bool(why_not_compiled()), reason=f"can't compile: {why_not_compiled()}")


@pytest.mark.parametrize("compile_layers", [True, None])
def test_a_training_run_learns_the_same(tmp_path, monkeypatch, compile_layers):
    monkeypatch.setattr(packed_trainer, "WORTH_COMPILING", 0)
    runs = {}
    for choice in (False, compile_layers):
        args = arguments(tmp_path / str(choice), compile_layers=choice, learning_rate=1e-3)
        runs[choice] = train(encoder_of(dropout=0.1), data_of(), args)
    stock, compiled = runs[False], runs[compile_layers]
    assert (stock.run["compiled_layers"], compiled.run["compiled_layers"]) == (False, True)
    np.testing.assert_allclose(compiled.scores, stock.scores, rtol=1e-3, atol=1e-3)
    loaded = Encoder.from_pretrained(compiled.output_dir)
    assert not any("forward" in vars(module) for module in loaded.modules())


def test_a_short_training_run_is_not_compiled(tmp_path):
    assert not train(encoder_of(), data_of(), arguments(tmp_path)).run["compiled_layers"]
