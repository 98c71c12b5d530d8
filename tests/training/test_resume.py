"""A run that was stopped anywhere ends with the weights of one that was not."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from toy_training import difference, new_encoder, toy_data, weights

from gemma_encoder.dropout import DropoutConfig
from gemma_encoder.encoder import Encoder
from gemma_encoder.errors import CheckpointError, GemmaEncoderError
from gemma_encoder.training import EncoderTrainer, train
from gemma_encoder.training.trainer import last_checkpoint

# 20 rows in batches of 4 are 5 steps an epoch, 10 in all; every draw of dropout must be the same too.
OPTIONS = {
    "num_train_epochs": 2,
    "per_device_train_batch_size": 4,
    "max_tokens": 30,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_strategy": "steps",
    "save_steps": 2,
    "lr_scheduler_type": "cosine",
}


class Killed(BaseException):
    """Stands for a kill: nothing in the package catches it and goes on."""


def encoder():
    return new_encoder(dropout=DropoutConfig.uniform(0.2))


def stop_at(patch: pytest.MonkeyPatch, step: int) -> None:
    """Kill training in the step after `step`, when one of its passes was computed."""
    original = EncoderTrainer.training_step

    def training_step(self, *args, **kwargs):
        loss = original(self, *args, **kwargs)
        if self.state.global_step == step:
            raise Killed
        return loss

    patch.setattr(EncoderTrainer, "training_step", training_step)


def interrupted(args, step: int, data=None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(Killed):
            train(encoder(), data or toy_data(), args)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    from gemma_encoder.training import EncoderTrainingArguments

    whole = encoder()
    folder = tmp_path_factory.mktemp("whole") / "run"
    args = EncoderTrainingArguments(
        output_dir=str(folder), use_cpu=True, bf16=False, learning_rate=1e-3, logging_steps=1, **OPTIONS
    )
    result = train(whole, toy_data(), args)
    return weights(whole), result


@pytest.mark.parametrize("step", [3, 5, 9])
def test_weights_and_scores_are_equal_to_the_bit(arguments, tmp_path, uninterrupted, step):
    whole, result = uninterrupted
    args = arguments(**OPTIONS)
    interrupted(args, step)
    assert not (tmp_path / "run").exists()
    resumed = encoder()
    torch.rand(5)  # another process has drawn something else
    again = train(resumed, toy_data(), args, resume=True)
    assert difference(whole, weights(resumed)) == 0
    assert again.metrics == result.metrics
    keep = ("steps", "tokens", "padding_avoided", "best_step")
    assert {name: again.run[name] for name in keep} == {name: result.run[name] for name in keep}


def test_lora_and_accumulation_resume_too(arguments, tmp_path):
    options = {**OPTIONS, "tune": "lora", "gradient_accumulation_steps": 2, "eval_steps": 1, "save_steps": 1}
    whole = encoder()
    train(whole, toy_data(), arguments(output_dir=str(tmp_path / "whole"), **options))
    args = arguments(**options)
    interrupted(args, 4)
    resumed = encoder()
    train(resumed, toy_data(), args, resume=True)
    assert difference(weights(whole), weights(resumed)) == 0


def test_a_real_kill_in_the_middle_of_a_step(arguments, tmp_path, uninterrupted):
    """SIGKILL from within the backward pass of another process, then resume here."""
    program = f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from toy_training import toy_data
        from test_resume import OPTIONS, encoder
        import gemma_encoder.training.trainer as module
        from gemma_encoder.training import EncoderTrainer, EncoderTrainingArguments, train

        def kill(gradient):
            os.kill(os.getpid(), signal.SIGKILL)

        original = EncoderTrainer._set_train_mode
        def killing(self, model):
            if self.state.global_step == 7:
                self.encoder.head.output.weight.register_hook(kill)
            original(self, model)
        EncoderTrainer._set_train_mode = killing
        train(encoder(), toy_data(), EncoderTrainingArguments(
            output_dir={str(tmp_path / "run")!r}, use_cpu=True, bf16=False,
            learning_rate=1e-3, logging_steps=1, **OPTIONS))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},  # others sum in another order
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert Path(last_checkpoint(tmp_path / "run.checkpoints")).name == "checkpoint-6"
    resumed = encoder()
    train(resumed, toy_data(), arguments(**OPTIONS), resume=True)
    assert difference(uninterrupted[0], weights(resumed)) == 0


@pytest.mark.parametrize("damage", ["no state", "half a state", "half the optimizer"])
def test_a_checkpoint_that_was_cut_short_is_passed_over(arguments, tmp_path, uninterrupted, damage):
    """A kill in the middle of saving leaves no whole state, which is written last; a disk can do worse."""
    args = arguments(**OPTIONS)
    interrupted(args, 5)
    newest = tmp_path / "run.checkpoints" / "checkpoint-4"
    torn = tmp_path / "run.checkpoints" / "checkpoint-6"
    shutil.copytree(newest, torn)
    state = json.loads((torn / "trainer_state.json").read_text())
    (torn / "trainer_state.json").write_text(json.dumps({**state, "global_step": 6}))
    if damage == "no state":
        (torn / "trainer_state.json").unlink()
    elif damage == "half a state":
        (torn / "trainer_state.json").write_text(json.dumps(state)[:100])
    else:
        os.truncate(torn / "optimizer.pt", 100)
        with pytest.raises(CheckpointError, match="checkpoint-6"):
            train(encoder(), toy_data(), args, resume=True)
        shutil.rmtree(torn)
    resumed = encoder()
    train(resumed, toy_data(), args, resume=True)
    assert difference(uninterrupted[0], weights(resumed)) == 0


def test_a_full_disk_stops_with_one_line_and_leaves_the_last_checkpoint(arguments, tmp_path, uninterrupted):
    """Files may grow to 100 kB only, which the third checkpoint's weights exceed."""
    args = arguments(**OPTIONS)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    original = EncoderTrainer._save_checkpoint

    def save(self, *positional):
        limit = 100_000 if self.state.global_step == 6 else soft
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            return original(self, *positional)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EncoderTrainer, "_save_checkpoint", save)
        with pytest.raises(GemmaEncoderError, match=r"checkpoint-6.*Mend: free disk space") as error:
            train(encoder(), toy_data(), args)
    assert "\n" not in str(error.value)
    left = sorted(path.name for path in (tmp_path / "run.checkpoints").glob("*checkpoint-*"))
    assert "checkpoint-4" in left and not any("6" in name for name in left)
    record = json.loads((tmp_path / "run.checkpoints" / "run.json").read_text())
    assert record["status"] == "failed" and "checkpoint-6" in record["error"]
    resumed = encoder()
    train(resumed, toy_data(), args, resume=True)
    assert difference(uninterrupted[0], weights(resumed)) == 0


def test_a_run_whose_last_save_failed_only_needs_saving(arguments, tmp_path, uninterrupted):
    args = arguments(**OPTIONS)
    with pytest.MonkeyPatch.context() as patch:

        def fail(self, *args, **kwargs):
            raise CheckpointError("The disk is full")

        patch.setattr(Encoder, "save_pretrained", fail)
        with pytest.raises(CheckpointError):
            train(encoder(), toy_data(), args)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 0)
        resumed = encoder()
        patch.setattr(EncoderTrainer, "training_step", None)  # not called
        result = train(resumed, toy_data(), args, resume=True)
    assert difference(uninterrupted[0], weights(resumed)) == 0
    assert result.metrics == uninterrupted[1].metrics
    assert not (tmp_path / "run.checkpoints").exists()


def test_the_folder_may_have_been_moved(arguments, tmp_path, uninterrupted, monkeypatch):
    """The best checkpoint is found by its step, not by the path it had."""
    monkeypatch.chdir(tmp_path)
    interrupted(arguments(**{**OPTIONS, "output_dir": "run"}), 9)
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "run.checkpoints", tmp_path / "elsewhere" / "other.checkpoints")
    resumed = encoder()
    args = arguments(**{**OPTIONS, "output_dir": str(tmp_path / "elsewhere" / "other")})
    result = train(resumed, toy_data(), args, resume=True)
    assert result.run["best_step"] == uninterrupted[1].run["best_step"]
    assert difference(uninterrupted[0], weights(resumed)) == 0


@pytest.mark.parametrize("change", [{"learning_rate": 5e-3}, {"seed": 1}, {"per_device_train_batch_size": 5}])
def test_other_options_are_refused_by_name(arguments, change):
    interrupted(arguments(**OPTIONS), 5)
    with pytest.raises(CheckpointError, match=next(iter(change))):
        train(encoder(), toy_data(), arguments(**{**OPTIONS, **change}), resume=True)


def test_other_rows_or_another_decoder_are_refused(arguments):
    args = arguments(**OPTIONS)
    interrupted(args, 5)
    with pytest.raises(CheckpointError, match="training rows"):
        train(encoder(), toy_data(18), args, resume=True)
    other = encoder()
    with torch.no_grad():
        other.stock_backbone.get_input_embeddings().weight.add_(0.01)  # frozen, so in no checkpoint
    with pytest.raises(CheckpointError, match="decoder"):
        train(other, toy_data(), args, resume=True)


def test_the_budget_may_change_on_the_way(arguments):
    interrupted(arguments(**OPTIONS), 5)
    train(encoder(), toy_data(), arguments(**{**OPTIONS, "max_tokens": 10_000}), resume=True)


def test_a_run_that_had_stopped_early_does_not_train_on(arguments):
    """Killed after the evaluation that used up the patience, before the model was saved."""
    args = arguments(**{**OPTIONS, "early_stopping_patience": 2, "learning_rate": 1e-9})

    def kill(*args, **kwargs):
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Encoder, "save_pretrained", kill)
        with pytest.raises(Killed):
            train(encoder(), toy_data(), args)
    result = train(encoder(), toy_data(), args, resume=True)
    assert result.run["steps"] == 6 and result.run["best_step"] == 2  # the third evaluation ended it
    assert result.metrics == {"accuracy": result.run["history"][2]["eval_accuracy"]}


def test_a_checkpoint_by_the_clock(arguments, tmp_path):
    """The only evaluation is after step 5; a clock that has always run out saves after each step."""
    args = arguments(num_train_epochs=1, per_device_train_batch_size=4, save_minutes=1e-9)
    interrupted(args, 3)
    assert Path(last_checkpoint(tmp_path / "run.checkpoints")).name == "checkpoint-3"
    whole, resumed = encoder(), encoder()
    train(resumed, toy_data(), args, resume=True)
    train(whole, toy_data(), arguments(per_device_train_batch_size=4, output_dir=str(tmp_path / "whole")))
    assert difference(weights(whole), weights(resumed)) == 0
