"""What goes wrong during a run: one clear error, nothing lost, and a record of it."""

import json
import os

import pytest
import torch
from toy_training import SCORES, arguments, data_of, encoder_of, fail_to_save, weights

from gemma_encoder.encoder import Encoder
from gemma_encoder.errors import CheckpointError, GemmaEncoderError, TrainingError
from gemma_encoder.training import EncoderTrainer, recording, train
from gemma_encoder.training.checkpoint_folder import last_checkpoint
from gemma_encoder.training.run_record import RUN_FILE, write_run


def one_line(error: Exception) -> str:
    assert "\n" not in str(error) and "Mend: " in str(error)
    return str(error)


def run_of(folder):
    return json.loads((folder / RUN_FILE).read_text())


@pytest.mark.parametrize("max_grad_norm", [1.0, 0.0])
def test_a_gradient_that_is_not_finite_stops_before_it_ruins_the_weights(tmp_path, max_grad_norm):
    """The loss is finite and does not show it; clipping would spread it to every weight."""
    encoder, calls = encoder_of(), []

    def overflow(gradient):
        calls.append(0)
        return gradient * (float("inf") if len(calls) == 4 else 1.0)

    encoder.head.output.weight.register_hook(overflow)
    args = arguments(tmp_path, num_train_epochs=2, max_grad_norm=max_grad_norm)
    with pytest.raises(
        TrainingError, match=r"gradient became (inf|nan) at step 4 \[rows \d+(, \d+){7} of"
    ) as error:
        train(encoder, data_of(train_rows=20), args)
    one_line(error.value)
    assert all(torch.isfinite(tensor).all() for tensor in weights(encoder).values())
    assert last_checkpoint(tmp_path / "model.checkpoints").endswith("checkpoint-3")


def test_a_non_finite_loss_names_its_row_and_stops(tmp_path, monkeypatch):
    encoder, loss = encoder_of(SCORES), Encoder.loss

    def breaks_at_row_33(encoder, logits, labels, *more, **options):
        return loss(encoder, logits, labels, *more, **options) * (float("nan") if 31.0 in labels else 1.0)

    monkeypatch.setattr(Encoder, "loss", breaks_at_row_33)
    with pytest.raises(TrainingError, match=r"loss became nan.*\[rows 33 of"):  # row numbers start at 2
        train(encoder, data_of(SCORES, label=float), arguments(tmp_path, max_tokens=1))
    assert run_of(tmp_path / "model.checkpoints")["status"] == "failed"


def test_out_of_memory_names_the_budget(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory")

    encoder = encoder_of()
    monkeypatch.setattr(encoder.pooler, "forward", full)
    with pytest.raises(GemmaEncoderError, match="Out of memory.*max_tokens=2048.*lower max_tokens"):
        train(encoder, data_of(), arguments(tmp_path))


def test_out_of_memory_in_the_optimiser_says_what_needs_the_memory(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

    monkeypatch.setattr(torch.optim.AdamW, "step", full)
    with pytest.raises(TrainingError, match=r"38,658 parameters train, max_tokens=2048.*tune=lora"):
        train(encoder_of(), data_of(), arguments(tmp_path))


def test_a_model_that_could_not_be_saved_is_saved_by_resuming_without_a_step(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        fail_to_save(patch)
        with pytest.raises(CheckpointError, match="No space left"):
            train(encoder_of(), data_of(), arguments(tmp_path))
    failed = run_of(tmp_path / "model.checkpoints")
    assert failed["status"] == "failed" and "No space left" in failed["error"]
    whole = encoder_of()
    train(whole, data_of(), arguments(tmp_path / "whole"))
    resumed = encoder_of()
    monkeypatch.setattr(EncoderTrainer, "training_step", None)  # not called
    run = train(resumed, data_of(), arguments(tmp_path), resume=True).run
    assert not (tmp_path / "model.checkpoints").exists()
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
    monkeypatch.setattr(recording, "write_run", full)
    with pytest.raises(CheckpointError, match="No space left"):
        train(encoder_of(), data_of(), arguments(tmp_path))


def test_a_record_that_can_not_be_written_keeps_the_checkpoints_and_the_model(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise TrainingError("run.json can't be written")

    monkeypatch.setattr(recording, "write_run", full)
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


def test_cudnn_attention_is_off_while_training_on_a_gpu(monkeypatch):
    """Its backward can give NaN on Hopper."""
    enabled = [True]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cuda, "cudnn_sdp_enabled", lambda: enabled[-1])
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", enabled.append)
    with recording._no_cudnn_attention():
        assert enabled[-1] is False
    assert enabled == [True, False, True]
