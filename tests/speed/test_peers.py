"""Other programs compute the same scores, and are left out with a reason where they can't."""

import numpy as np
import pytest
import torch

from gemma_encoder import Encoder
from gemma_encoder.errors import ConfigError
from gemma_encoder.pooling import attention, last_k
from gemma_encoder.speed import batches, exporting
from gemma_encoder.speed.batches import BATCH_SIZES, Tuned, sorted_batches
from gemma_encoder.speed.contenders import CONTENDERS, ON_REQUEST, OURS, Settings
from gemma_encoder.speed.measuring import measure
from gemma_encoder.testing import tiny_decoder

ROWS = ["money", "a good film", "film", "the river bank " * 30, "the bank of the river was a good film"]
PACKAGES = {"ONNX Runtime": "onnxruntime", "OpenVINO": "openvino"}
ENCODERS = {
    "gemma3": {},
    "gemma2": {"pooling": attention(probes=2)},
    "llama": {"attention": "causal", "pooling": last_k()},
}


@pytest.fixture(scope="module", params=ENCODERS)
def exported(request, tmp_path_factory) -> tuple[str, str]:
    """Folder of an encoder, and one for its export."""
    path = tmp_path_factory.mktemp(request.param)
    decoder, options = tiny_decoder(request.param), ENCODERS[request.param]
    encoder = Encoder.from_decoder(decoder, verify=False, seed=0, labels=("a", "b", "c"), **options)
    encoder.save_pretrained(path / "model")
    return str(path / "model"), str(path)


@pytest.mark.parametrize("name", ON_REQUEST)
def test_peers_compute_the_same(exported, name, monkeypatch):
    for package in (PACKAGES[name], "onnx", "onnxscript"):
        pytest.importorskip(package)
    folder, exports = exported
    settings = Settings(exports=exports, compile_layers=False)
    scores = CONTENDERS[name](folder, settings)(ROWS)
    assert scores.shape == (5, 3)
    np.testing.assert_allclose(scores, CONTENDERS[OURS](folder, settings)(ROWS), atol=1e-4)
    monkeypatch.setattr(exporting, "write_onnx", lambda *given: pytest.fail("exported once more"))
    np.testing.assert_allclose(CONTENDERS[name](folder, settings)(ROWS[:1]), scores[:1], atol=1e-4)


@pytest.mark.parametrize("name", ON_REQUEST)
def test_what_is_not_installed_is_left_out(folder, monkeypatch, name):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    quick = {"dtypes": ["float32"], "rounds": 1, "alone": False, "tell": lambda line: None}
    speed = measure(folder, ROWS, names=[name], settings=Settings(compile_layers=False), **quick)
    assert [each.name for each in speed.contenders] == [OURS]
    assert f"pip install {PACKAGES[name]} onnx onnxscript" in speed.left_out[name]["float32"]


@pytest.mark.parametrize("name", ON_REQUEST)
@pytest.mark.parametrize("asked", [{"dtype": "bfloat16"}, {"device": "cuda"}])
def test_what_a_peer_can_not_do_is_said(name, asked, monkeypatch):
    pytest.importorskip(PACKAGES[name])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # of which OpenVINO would die in bfloat16
    monkeypatch.setattr("importlib.util.find_spec", lambda package: "found")
    with pytest.raises(ConfigError, match="bfloat16" if "dtype" in asked else "on a CPU only"):
        CONTENDERS[name]("never-opened", Settings(**asked))


def test_an_export_that_fails_is_one_line(folder, tmp_path, monkeypatch):
    def fail(*given, **options):
        raise RuntimeError("no such operator\nand a page of reasons")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(ConfigError, match="can't export gemma3_text to ONNX: no such operator"):
        exporting.write_onnx(Encoder.from_pretrained(folder), tmp_path / "model.onnx")


@pytest.mark.parametrize("size", [1, 2, 8])
def test_sorted_batches_come_back_in_order(folder, size):
    encoder = Encoder.from_pretrained(folder)
    widths = []

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        assert mask.any(axis=0).all() and len(ids) <= size
        widths.append(ids.shape[1])
        return (ids * mask).sum(axis=1, keepdims=True)

    found = sorted_batches(folder, run)(size, ROWS)
    assert found[:, 0].tolist() == [sum(ids) for ids in encoder.tokenize(ROWS).input_ids]
    assert widths == sorted(widths, reverse=True) and len(widths) == -(-len(ROWS) // size)


def test_the_fastest_size_is_found_once(monkeypatch):
    taken = dict(zip(BATCH_SIZES, (3.0, 1.0, 2.0, 5.0, 4.0), strict=True))
    monkeypatch.setattr(batches, "seconds", lambda call, device: taken[call.args[0]])
    sizes = []
    score = Tuned(lambda size, rows: sizes.append(size), "cpu")
    score(ROWS), score(ROWS)
    assert sizes == [BATCH_SIZES[0], BATCH_SIZES[1], BATCH_SIZES[1]] and score.batch_size == BATCH_SIZES[1]
    Tuned(lambda size, rows: sizes.append(size), "cpu", batch_size=7)(ROWS[:1])
    assert sizes[3:] == [7]


def test_an_export_that_was_cut_off_is_made_again(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "require", lambda *packages: None)
    settings = Settings(exports=str(tmp_path))

    def cut_off(encoder, path):
        path.write_text("half")
        raise ConfigError("no space left")

    monkeypatch.setattr(exporting, "write_onnx", cut_off)
    with pytest.raises(ConfigError, match="no space"), exporting.onnx_file(folder, settings):
        pass
    monkeypatch.setattr(exporting, "write_onnx", lambda encoder, path: path.write_text("whole"))
    for _ in range(2):
        with exporting.onnx_file(folder, settings) as path:
            assert path.read_text() == "whole"
        monkeypatch.setattr(exporting, "write_onnx", lambda *given: pytest.fail("exported once more"))
