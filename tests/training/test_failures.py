"""What goes wrong outside a forward pass: one clear error, nothing lost, and a record of it."""

import json
import os
import shutil

import pytest
import torch
from training_samples import arguments, data_of, encoder_of, weights

from gemma_encoder.encoder import Encoder
from gemma_encoder.errors import CheckpointError, ConfigError, TrainingError
from gemma_encoder.training import train, training
from gemma_encoder.training.run_record import RUN_FILE, write_run
from gemma_encoder.training.trainer import WEIGHTS_FILE, last_checkpoint


def run_of(folder):
    return json.loads((folder / RUN_FILE).read_text())


def fail_to_save(patch) -> None:
    def full(*args, **kwargs):
        raise CheckpointError("No space left on device")

    patch.setattr(Encoder, "save_pretrained", full)


def test_a_model_that_could_not_be_saved_is_saved_by_resuming(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        fail_to_save(patch)
        with pytest.raises(CheckpointError, match="No space left"):
            train(encoder_of(), data_of(), arguments(tmp_path))
    failed = run_of(tmp_path / "model.checkpoints")
    assert failed["status"] == "failed" and "No space left" in failed["error"]
    whole = encoder_of()
    train(whole, data_of(), arguments(tmp_path / "whole"))
    resumed = encoder_of()
    run = train(resumed, data_of(), arguments(tmp_path), resume=True).run
    torch.testing.assert_close(weights(resumed), weights(whole), rtol=0, atol=0)
    assert run["status"] == "finished" and run["steps"] == 10
    assert (run["tokens"], run["padding_avoided"]) == (failed["tokens"], failed["padding_avoided"])


def test_an_interrupt_is_recorded_as_one(tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(Encoder, "save_pretrained", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(encoder_of(), data_of(), arguments(tmp_path))
    assert run_of(tmp_path / "model.checkpoints")["status"] == "interrupted"


def test_the_error_that_ended_the_run_is_shown_also_where_no_record_can_be_written(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise TrainingError("run.json can't be written")

    fail_to_save(monkeypatch)
    monkeypatch.setattr(training, "write_run", full)
    with pytest.raises(CheckpointError, match="No space left"):
        train(encoder_of(), data_of(), arguments(tmp_path))


def test_a_record_that_can_not_be_written_keeps_the_checkpoints_and_the_model(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise TrainingError("run.json can't be written")

    monkeypatch.setattr(training, "write_run", full)
    with pytest.raises(TrainingError, match="can't be written"):
        train(encoder_of(), data_of(), arguments(tmp_path))
    assert last_checkpoint(tmp_path / "model.checkpoints")
    Encoder.from_pretrained(tmp_path / "model")


def test_a_full_disk_leaves_the_old_record_and_nothing_else(tmp_path, monkeypatch):
    write_run(tmp_path, {"status": "old"})

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(TrainingError, match="No space left"):
        write_run(tmp_path, {"status": "new"})
    assert run_of(tmp_path) == {"status": "old"} and os.listdir(tmp_path) == [RUN_FILE]


def test_a_folder_that_can_not_be_made_is_named_before_the_first_step(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(TrainingError, match=r"can't be written.*file/model.checkpoints"):
        train(encoder_of(), data_of(), arguments(tmp_path / "file"))


def test_out_of_memory_in_the_optimiser_says_what_needs_the_memory(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

    monkeypatch.setattr(torch.optim.AdamW, "step", full)
    with pytest.raises(TrainingError, match=r"38,658 parameters train, max_tokens=2048.*tune=lora"):
        train(encoder_of(), data_of(), arguments(tmp_path))


@pytest.mark.parametrize("options", [{"tune": "head"}, {"tune": "lora", "lora_r": 8}])
def test_a_checkpoint_of_other_options_is_refused(tmp_path, monkeypatch, options):
    with monkeypatch.context() as patch:
        fail_to_save(patch)
        with pytest.raises(CheckpointError, match="No space"):
            train(encoder_of(), data_of(), arguments(tmp_path, tune="lora", lora_r=4))
    with pytest.raises(CheckpointError, match="other options"):
        train(encoder_of(), data_of(), arguments(tmp_path, **options), resume=True)


def test_a_truncated_checkpoint_is_named(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        fail_to_save(patch)
        with pytest.raises(CheckpointError, match="No space"):
            train(encoder_of(), data_of(), arguments(tmp_path))
    file = tmp_path / "model.checkpoints" / "checkpoint-10" / WEIGHTS_FILE
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"can't be read.*checkpoint-10"):
        train(encoder_of(), data_of(), arguments(tmp_path), resume=True)


def test_an_earlier_run_is_only_replaced_when_asked_to(tmp_path):
    old = tmp_path / "model.checkpoints" / "checkpoint-99"
    old.mkdir(parents=True)
    (old / "trainer_state.json").write_text('{"global_step": 99}')
    with pytest.raises(ConfigError, match="interrupted run left its checkpoints"):
        train(encoder_of(), data_of(), arguments(tmp_path))
    assert old.is_dir()
    train(encoder_of(), data_of(), arguments(tmp_path, keep_checkpoints=True), overwrite=True)
    assert last_checkpoint(tmp_path / "model.checkpoints").endswith("checkpoint-10")
    shutil.rmtree(tmp_path / "model.checkpoints")
    before = (tmp_path / "model" / "run.json").read_bytes()
    with pytest.raises(ConfigError, match="holds a model"):
        train(encoder_of(), data_of(), arguments(tmp_path))
    assert (tmp_path / "model" / "run.json").read_bytes() == before
