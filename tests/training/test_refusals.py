"""What is refused before the first step; each in one line that says how to mend it."""

import shutil

import pytest
import torch
from toy_training import SCORES, arguments, data_of, difference, encoder_of, weights

from gemma_encoder.errors import ConfigError, TrainingError
from gemma_encoder.training import EncoderTrainer, train
from gemma_encoder.training.checkpoint_folder import last_checkpoint
from gemma_encoder.training.parameters import add_lora


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_dir": None}, "output_dir is not set"),
        ({"tune": "some"}, "tune is 'some'.*full, lora, head"),
        ({"tune": "lora", "train_embeddings": True}, "does nothing with tune=lora"),
        ({"merge_adapter": False}, "merge_adapter=False does nothing with tune=full"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"head_learning_rate": 0}, "head_learning_rate is 0"),
        ({"num_train_epochs": 0}, "num_train_epochs is 0"),
        ({"lora_r": 0}, "lora_r is 0"),
        ({"ranking_loss": "hinge"}, "ranking_loss is 'hinge'.*pointwise, pairwise, softmax"),
        ({"lora_dropout": 1.0}, "lora_dropout is 1.0"),
        ({"save_minutes": -1}, "save_minutes is -1"),
        ({"weight_decay": -1}, "weight_decay is -1"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"metric_for_best_model": "f1"}, "the task's first metric"),
        ({"save_strategy": "no"}, "load_best_model_at_end needs evaluations and checkpoints"),
        ({"early_stopping_patience": 0}, "early_stopping_patience is 0"),
        (
            {"early_stopping_patience": 1, "eval_strategy": "no", "load_best_model_at_end": False},
            "needs evaluations",
        ),
        (
            {"average_last": 0.3, "early_stopping_patience": 1, "load_best_model_at_end": False},
            "average_last averages the last steps",
        ),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor is 0.1"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size"),
        ({"fsdp": "full_shard"}, "fsdp"),
        ({"save_only_model": True}, "save_only_model"),
        # values of another type
        ({"learning_rate": "2e-5"}, "learning_rate is '2e-5'.*use a number"),
        ({"max_steps": "abc"}, "max_steps is 'abc'.*use a whole number"),
        ({"data_seed": "abc"}, "data_seed is 'abc'.*use a whole number or nothing"),
        ({"bf16": "yes"}, "bf16 is 'yes'.*use true or false"),
        ({"seed": True}, "seed is True"),
        ({"lora_target_modules": ["q_proj"]}, r"lora_target_modules is \['q_proj'\].*use text"),
        # transformers' own checks, as one line
        ({"bf16": True, "fp16": True}, "fp16"),
        ({"eval_strategy": "sometimes"}, "sometimes"),
        ({"eval_strategy": "steps", "eval_steps": 3}, "save and eval strategy to match"),
    ],
)
def test_options_that_can_not_work(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message) as error:
        arguments(tmp_path, **options)
    assert "\n" not in str(error.value) and "Mend: " in str(error.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: (encoder_of(SCORES), data_of(), arguments(folder)), "The model does regression"),
        (lambda folder: (encoder_of(), data_of(train_rows=0), arguments(folder)), "has no row"),
        (
            lambda folder: (encoder_of(), data_of(), arguments(folder, ranking_loss="poly1")),
            "ranking_loss does nothing in single_label_classification",
        ),
        (
            lambda folder: (
                encoder_of(),
                data_of(train_rows=5),
                arguments(folder, dataloader_drop_last=True),
            ),
            "leaves no batch: there are 5 training rows, a batch has 8",
        ),
    ],
)
def test_what_can_not_work_is_refused_before_the_first_step(tmp_path, make, message):
    with pytest.raises(ConfigError, match=message):
        train(*make(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adam_beta1": 2.0}, "optim adamw.* can't be used: Invalid beta"),
        ({"lr_scheduler_kwargs": {"x": 1}}, "lr_scheduler_type linear can't be used.*'x'"),
        ({"report_to": "wandb"}, "can't be set up.*WandbCallback"),
    ],
)
def test_what_only_a_library_knows_to_be_wrong(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        train(encoder_of(), data_of(), arguments(tmp_path, **options))


def test_fp16_is_refused_for_gemma(tmp_path):
    args = arguments(tmp_path)
    args.fp16 = True
    with pytest.raises(ConfigError, match="fp16 can't train Gemma"):
        train(encoder_of(), data_of(), args)


def test_bfloat16_weights_are_not_fine_tuned_in_full(tmp_path):
    encoder = encoder_of().to(torch.bfloat16)
    with pytest.raises(ConfigError, match="bfloat16 weights loses small updates"):
        train(encoder, data_of(train_rows=20), arguments(tmp_path))
    train(encoder, data_of(train_rows=20), arguments(tmp_path, tune="lora"))


def test_lora_on_layers_that_do_not_exist_names_those_that_do(tmp_path):
    with pytest.raises(ConfigError, match="lora_target_modules is 'query'.*q_proj"):
        train(encoder_of(), data_of(), arguments(tmp_path, tune="lora", lora_target_modules="query"))


def test_a_single_layer_may_be_named_for_lora(tmp_path):
    encoder = encoder_of()
    train(encoder, data_of(), arguments(tmp_path, tune="lora", lora_target_modules="q_proj"))
    adapted = {name.split(".lora_")[0] for name in encoder.state_dict() if ".lora_" in name}
    assert adapted and all(name.endswith("q_proj") for name in adapted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lora_r": 64}, "lora_r=2, not 64"),
        ({"lora_alpha": 8}, "lora_alpha=4, not 8"),
        ({"lora_dropout": 0.5}, "lora_dropout=0.1, not 0.5"),
        ({"lora_target_modules": "q_proj"}, "lora_target_modules=k_proj,q_proj, not q_proj"),
        ({"lora_target_modules": "all-linear"}, "lora_target_modules=k_proj,q_proj, not .*,up_proj"),
    ],
)
def test_an_adapter_that_is_there_stays_as_it_is(tmp_path, change, message):
    options = {"lora_r": 2, "lora_alpha": 4, "lora_dropout": 0.1, "lora_target_modules": "q_proj, k_proj"}
    encoder = encoder_of()
    add_lora(encoder, arguments(tmp_path, tune="lora", **options))
    adapter = weights(encoder)
    with pytest.raises(ConfigError, match=f"has a LoRA adapter with {message}"):
        add_lora(encoder, arguments(tmp_path, tune="lora", **options | change))
    add_lora(encoder, arguments(tmp_path, tune="lora", **options))
    assert difference(adapter, weights(encoder)) == 0


def test_an_adapter_on_all_linear_layers_is_recognised(tmp_path):
    encoder, args = encoder_of(), arguments(tmp_path, tune="lora")
    add_lora(encoder, args)
    add_lora(encoder, args)


def test_full_fine_tuning_does_not_train_an_adapter_on_the_side(tmp_path):
    encoder = encoder_of()
    add_lora(encoder, arguments(tmp_path, tune="lora"))
    with pytest.raises(ConfigError, match="has a LoRA adapter, which full fine-tuning would train"):
        train(encoder, data_of(), arguments(tmp_path))


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds other files"):
        train(encoder_of(), data_of(), arguments(tmp_path))


def test_a_folder_that_can_not_be_made_is_named_before_the_first_step(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(TrainingError, match=r"can't be written.*file/model.checkpoints"):
        train(encoder_of(), data_of(), arguments(tmp_path / "file"))


def test_an_earlier_run_is_only_replaced_when_asked_to(tmp_path):
    old = tmp_path / "model.checkpoints" / "checkpoint-99"
    old.mkdir(parents=True)
    (old / "trainer_state.json").write_text('{"global_step": 99}')
    with pytest.raises(ConfigError, match=r"interrupted run left its checkpoints.*--resume .*--overwrite "):
        train(encoder_of(), data_of(), arguments(tmp_path))
    assert old.is_dir()
    train(encoder_of(), data_of(), arguments(tmp_path, keep_checkpoints=True), overwrite=True)
    assert last_checkpoint(tmp_path / "model.checkpoints").endswith("checkpoint-10")
    shutil.rmtree(tmp_path / "model.checkpoints")
    before = (tmp_path / "model" / "run.json").read_bytes()
    with pytest.raises(ConfigError, match="holds a model"):
        train(encoder_of(), data_of(), arguments(tmp_path))
    assert (tmp_path / "model" / "run.json").read_bytes() == before


def test_files_of_others_beside_the_checkpoints_stay(tmp_path):
    checkpoints = tmp_path / "model.checkpoints"
    (checkpoints / "checkpoint-99").mkdir(parents=True)
    (checkpoints / "runs").mkdir()
    (checkpoints / "thesis.txt").write_text("mine")
    train(encoder_of(), data_of(), arguments(tmp_path), overwrite=True)
    assert sorted(path.name for path in checkpoints.iterdir()) == ["runs", "thesis.txt"]


def test_a_run_that_ended_before_its_first_checkpoint_is_started_again(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(EncoderTrainer, "training_step", None)
        with pytest.raises(TypeError):
            train(encoder_of(), data_of(), arguments(tmp_path))
    assert (tmp_path / "model.checkpoints" / "run.json").is_file()
    train(encoder_of(), data_of(), arguments(tmp_path))


def test_nothing_to_resume_is_said(tmp_path):
    with pytest.raises(TrainingError, match="no checkpoint to resume"):
        train(encoder_of(), data_of(), arguments(tmp_path), resume=True)
