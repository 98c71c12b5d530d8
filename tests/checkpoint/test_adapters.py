"""LoRA merged into the folder, or kept beside its base."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from folder_samples import SINGLE, TEXTS, encoder_of, scores, served, with_lora
from transformers import PreTrainedModel

from gemma_encoder.encoder import Encoder
from gemma_encoder.errors import CheckpointError
from gemma_encoder.testing import tiny_decoder


@pytest.mark.parametrize(
    "options", [{}, {"use_dora": True}, {"use_rslora": True}, {"modules_to_save": ["up_proj"]}]
)
def test_merged_adapter(options, tmp_path):
    encoder = with_lora(encoder_of(), **options)
    if "modules_to_save" in options:
        with torch.no_grad():
            for name, parameter in encoder.backbone.named_parameters():
                if "modules_to_save" in name:
                    parameter.mul_(1.5)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    live = scores(encoder, TEXTS)
    assert np.abs(live - scores(encoder_of(), TEXTS)).max() > 0.01
    encoder.save_pretrained(tmp_path / "model")
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert np.array_equal(scores(encoder, TEXTS), live)
    again = Encoder.from_pretrained(tmp_path / "model")
    assert isinstance(again.backbone, PreTrainedModel)
    np.testing.assert_allclose(scores(again, TEXTS), live, atol=1e-5)
    np.testing.assert_allclose(served(tmp_path / "model", TEXTS), live, atol=1e-4)


def test_kept_adapter_of_a_model_made_in_memory_keeps_its_base_too(tmp_path):
    encoder = with_lora(encoder_of(window="width"))
    encoder.save_pretrained(tmp_path / "model", merge_adapter=False)
    assert (tmp_path / "model" / "base" / "model.safetensors").is_file()
    again = Encoder.from_pretrained(tmp_path / "model")
    assert hasattr(again.backbone, "peft_config")
    assert np.array_equal(scores(again, TEXTS), scores(encoder, TEXTS))
    again.save_pretrained(tmp_path / "merged")
    np.testing.assert_allclose(
        scores(Encoder.from_pretrained(tmp_path / "merged"), TEXTS), scores(encoder, TEXTS), atol=1e-5
    )


@pytest.fixture
def adapted(decoder_folder, tmp_path) -> tuple[Encoder, Path]:
    encoder = with_lora(
        Encoder.from_decoder(decoder_folder, verify=False, seed=0, text=SINGLE, window="width")
    )
    encoder.save_pretrained(tmp_path / "model", merge_adapter=False)
    return encoder, tmp_path / "model"


def test_kept_adapter_loads_its_decoder_from_where_it_was(adapted):
    encoder, folder = adapted
    assert not (folder / "base").exists() and not (folder / "model.safetensors").exists()
    for dtype in (torch.float32, torch.bfloat16):  # the digest of the base does not depend on the type
        assert Encoder.from_pretrained(folder, dtype=dtype).dtype == dtype
    assert np.array_equal(scores(Encoder.from_pretrained(folder), TEXTS), scores(encoder, TEXTS))


def test_kept_adapter_on_weights_that_are_the_decoders_no_more_keeps_its_base(adapted, tmp_path):
    encoder, _ = adapted
    encoder.save_pretrained(tmp_path / "merged")
    trained_on = with_lora(Encoder.from_pretrained(tmp_path / "merged"))
    trained_on.save_pretrained(tmp_path / "second", merge_adapter=False)
    assert (tmp_path / "second" / "base").is_dir()
    again = Encoder.from_pretrained(tmp_path / "second")
    again.save_pretrained(tmp_path / "third", merge_adapter=False)
    for name in ("second", "third"):
        again = Encoder.from_pretrained(tmp_path / name)
        assert np.array_equal(scores(again, TEXTS), scores(trained_on, TEXTS))


def test_kept_adapter_without_its_decoder(adapted, decoder_folder):
    shutil.rmtree(decoder_folder)
    with pytest.raises(CheckpointError, match=r"can't be loaded.*bring .*decoder back"):
        Encoder.from_pretrained(adapted[1])


def test_kept_adapter_on_another_decoder(adapted, decoder_folder):
    tiny_decoder("gemma3", seed=7).backbone.save_pretrained(decoder_folder)
    with pytest.raises(CheckpointError, match="other weights"):
        Encoder.from_pretrained(adapted[1])


def test_kept_adapter_is_nothing_for_sentence_transformers_to_guess_at(adapted):
    with pytest.raises(ValueError, match="Unrecognized model"):
        served(adapted[1], TEXTS)
