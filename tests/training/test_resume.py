"""A run that was stopped anywhere ends with the weights of one that was not."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_training import arguments, data_of, difference, encoder_of, fail_to_save, weights

from gemma_encoder.dropout import DropoutConfig
from gemma_encoder.encoder import Encoder
from gemma_encoder.errors import CheckpointError, GemmaEncoderError
from gemma_encoder.training import EncoderTrainer, train
from gemma_encoder.training.checkpoint_folder import last_checkpoint
from gemma_encoder.training.packed_trainer import WEIGHTS_FILE

# 20 rows in batches of 4 are 5 steps an epoch, 10 in all; every draw of dropout must be the same too.
OPTIONS = {
    "num_train_epochs": 2,
    "learning_rate": 1e-3,
    "logging_steps": 1,
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
    return encoder_of(dropout=DropoutConfig.uniform(0.2))


def rows(count: int = 20):
    return data_of(train_rows=count)


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
            train(encoder(), data or rows(), args)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    whole = encoder()
    args = arguments(tmp_path_factory.mktemp("whole"), **OPTIONS)
    result = train(whole, rows(), args)
    return weights(whole), result


@pytest.mark.parametrize("step", [3, 5, 9])
def test_weights_and_scores_are_equal_to_the_bit(tmp_path, uninterrupted, step):
    whole, result = uninterrupted
    args = arguments(tmp_path, **OPTIONS)
    interrupted(args, step)
    assert not (tmp_path / "model").exists()
    resumed = encoder()
    torch.rand(5)  # another process has drawn something else
    again = train(resumed, rows(), args, resume=True)
    assert difference(whole, weights(resumed)) == 0
    assert again.metrics == result.metrics
    keep = ("steps", "tokens", "padding_avoided", "best_step")
    assert {name: again.run[name] for name in keep} == {name: result.run[name] for name in keep}


def test_lora_and_accumulation_resume_too(tmp_path):
    options = {**OPTIONS, "tune": "lora", "gradient_accumulation_steps": 2, "eval_steps": 1, "save_steps": 1}
    whole = encoder()
    train(whole, rows(), arguments(tmp_path / "whole", **options))
    args = arguments(tmp_path, **options)
    interrupted(args, 4)
    resumed = encoder()
    train(resumed, rows(), args, resume=True)
    assert difference(weights(whole), weights(resumed)) == 0


@pytest.mark.parametrize("step", [3, 7])  # before the first step that counts, and after
def test_a_mean_of_weights_resumes_too(tmp_path, step):
    options = {**OPTIONS, "average_last": 0.5, "load_best_model_at_end": False}
    whole = encoder()
    train(whole, rows(), arguments(tmp_path / "whole", **options))
    args = arguments(tmp_path, **options)
    interrupted(args, step)
    resumed = encoder()
    train(resumed, rows(), args, resume=True)
    assert difference(weights(whole), weights(resumed)) == 0


def test_a_real_kill_in_the_middle_of_a_step(tmp_path, uninterrupted):
    """SIGKILL from within the backward pass of another process, then resume here."""
    program = f"""
        import os, signal, sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from toy_training import arguments
        from test_resume import OPTIONS, encoder, rows
        from gemma_encoder.training import EncoderTrainer, train

        def kill(gradient):
            os.kill(os.getpid(), signal.SIGKILL)

        original = EncoderTrainer._set_train_mode
        def killing(self, model):
            if self.state.global_step == 7:
                self.encoder.head.output.weight.register_hook(kill)
            original(self, model)
        EncoderTrainer._set_train_mode = killing
        train(encoder(), rows(), arguments(Path({str(tmp_path)!r}), **OPTIONS))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},  # others sum in another order
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert Path(last_checkpoint(tmp_path / "model.checkpoints")).name == "checkpoint-6"
    resumed = encoder()
    train(resumed, rows(), arguments(tmp_path, **OPTIONS), resume=True)
    assert difference(uninterrupted[0], weights(resumed)) == 0


@pytest.mark.parametrize("damage", ["no state", "half a state", "half the optimizer"])
def test_a_checkpoint_that_was_cut_short_is_passed_over(tmp_path, uninterrupted, damage):
    """A kill in the middle of saving leaves no whole state, which is written last; a disk can do worse."""
    args = arguments(tmp_path, **OPTIONS)
    interrupted(args, 5)
    newest = tmp_path / "model.checkpoints" / "checkpoint-4"
    torn = tmp_path / "model.checkpoints" / "checkpoint-6"
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
            train(encoder(), rows(), args, resume=True)
        shutil.rmtree(torn)
    resumed = encoder()
    train(resumed, rows(), args, resume=True)
    assert difference(uninterrupted[0], weights(resumed)) == 0


def test_a_full_disk_stops_with_one_line_and_leaves_the_last_checkpoint(tmp_path, uninterrupted):
    """Files may grow to 100 kB only, which the third checkpoint's weights exceed."""
    args = arguments(tmp_path, **OPTIONS)
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
            train(encoder(), rows(), args)
    assert "\n" not in str(error.value)
    left = sorted(path.name for path in (tmp_path / "model.checkpoints").glob("*checkpoint-*"))
    assert "checkpoint-4" in left and not any("6" in name for name in left)
    record = json.loads((tmp_path / "model.checkpoints" / "run.json").read_text())
    assert record["status"] == "failed" and "checkpoint-6" in record["error"]
    resumed = encoder()
    train(resumed, rows(), args, resume=True)
    assert difference(uninterrupted[0], weights(resumed)) == 0


def test_the_folder_may_have_been_moved(tmp_path, uninterrupted, monkeypatch):
    """The best checkpoint is found by its step, not by the path it had."""
    monkeypatch.chdir(tmp_path)
    interrupted(arguments(tmp_path, **{**OPTIONS, "output_dir": "model"}), 9)
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "model.checkpoints", tmp_path / "elsewhere" / "other.checkpoints")
    resumed = encoder()
    args = arguments(tmp_path, **{**OPTIONS, "output_dir": str(tmp_path / "elsewhere" / "other")})
    result = train(resumed, rows(), args, resume=True)
    assert result.run["best_step"] == uninterrupted[1].run["best_step"]
    assert difference(uninterrupted[0], weights(resumed)) == 0


@pytest.mark.parametrize("change", [{"learning_rate": 5e-3}, {"seed": 1}, {"per_device_train_batch_size": 5}])
def test_other_options_are_refused_by_name(tmp_path, change):
    interrupted(arguments(tmp_path, **OPTIONS), 5)
    with pytest.raises(CheckpointError, match=next(iter(change))):
        train(encoder(), rows(), arguments(tmp_path, **{**OPTIONS, **change}), resume=True)


def test_other_rows_metrics_or_another_decoder_are_refused(tmp_path):
    args = arguments(tmp_path, **OPTIONS)
    interrupted(args, 5)
    data = rows()
    for change, named in (
        ({"train": rows(18).train}, "training rows"),
        # The best checkpoint so far was chosen by these rows, and by this metric.
        ({"validation": data.validation.select(range(6))}, "validation rows"),
        ({"task": replace(data.task, metrics=("accuracy", "matthews"))}, "metrics"),
    ):
        with pytest.raises(CheckpointError, match=named):
            train(encoder(), replace(data, **change), args, resume=True)
    other = encoder()
    with torch.no_grad():
        other.stock_backbone.get_input_embeddings().weight.add_(0.01)  # frozen, so in no checkpoint
    with pytest.raises(CheckpointError, match="decoder"):
        train(other, data, args, resume=True)


def test_the_budget_may_change_on_the_way(tmp_path):
    interrupted(arguments(tmp_path, **OPTIONS), 5)
    train(encoder(), rows(), arguments(tmp_path, **{**OPTIONS, "max_tokens": 10_000}), resume=True)


def test_a_run_that_had_stopped_early_does_not_train_on(tmp_path):
    """Killed after the evaluation that used up the patience, before the model was saved."""
    args = arguments(tmp_path, **{**OPTIONS, "early_stopping_patience": 2, "learning_rate": 1e-9})

    def kill(*args, **kwargs):
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Encoder, "save_pretrained", kill)
        with pytest.raises(Killed):
            train(encoder(), rows(), args)
    result = train(encoder(), rows(), args, resume=True)
    assert result.run["steps"] == 6 and result.run["best_step"] == 2  # the third evaluation ended it
    assert result.metrics == {"accuracy": result.run["history"][2]["eval_accuracy"]}


def test_a_checkpoint_by_the_clock(tmp_path):
    """The only evaluation is after step 5; a clock that has always run out saves after each step."""
    options = {"num_train_epochs": 1, "per_device_train_batch_size": 4}
    args = arguments(tmp_path, save_minutes=1e-9, **options)
    interrupted(args, 3)
    assert Path(last_checkpoint(tmp_path / "model.checkpoints")).name == "checkpoint-3"
    whole, resumed = encoder(), encoder()
    train(resumed, rows(), args, resume=True)
    train(whole, rows(), arguments(tmp_path / "whole", **options))
    assert difference(weights(whole), weights(resumed)) == 0


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


def test_early_stopping_counts_on_after_a_resume(tmp_path, monkeypatch):
    """Of two evaluations without a better score one lies before the kill."""
    options = {"num_train_epochs": 30, "learning_rate": 1e-9, "early_stopping_patience": 2}
    step = EncoderTrainer.training_step

    def killed_in_the_third_epoch(trainer, *args, **kwargs):
        if trainer.state.global_step == 11:
            raise KeyboardInterrupt
        return step(trainer, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(EncoderTrainer, "training_step", killed_in_the_third_epoch)
        with pytest.raises(KeyboardInterrupt):
            train(encoder_of(), data_of(), arguments(tmp_path, **options))
    result = train(encoder_of(), data_of(), arguments(tmp_path, **options), resume=True)
    assert result.run["steps"] == 3 * 5
    assert result.run["resumed_from"] == "checkpoint-10"
