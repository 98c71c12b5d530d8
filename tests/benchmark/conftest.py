"""A folder with eight rows of every task, a tiny encoder, and a plan of a benchmark that takes seconds."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import BertConfig, BertModel

from gemma_encoder.benchmark import Plan
from gemma_encoder.tasks import TASKS
from gemma_encoder.testing import tiny_tokenizer

sys.path.append(str(Path(__file__).parents[1] / "tasks"))
from suite_files import write_suites

RECIPE = {
    "learning_rate": 1e-3,
    "head_learning_rate": 1e-2,
    "num_train_epochs": 1,
    "batch_size": 4,
    "max_length": 200,
    "encoder_learning_rate": 1e-3,
    "max_train_rows": None,
    "max_validation_rows": None,
    "dropout": {"attention": 0.0, "feed_forward": 0.1, "embedding": 0.0, "head": 0.1},
}


@pytest.fixture(scope="session")
def suite_data(tmp_path_factory) -> Path:
    """Every task's splits as parts that are not the official ones; AX has no labels, as on the hub."""
    return write_suites(tmp_path_factory.mktemp("suites"))


@pytest.fixture
def own_data(suite_data, tmp_path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(suite_data, tmp_path / "suites"))


@pytest.fixture
def official_tests(own_data, monkeypatch) -> Path:
    """Data whose test splits pass for the official ones, which have six rows then."""
    for name, task in list(TASKS.items()):
        folder = own_data / ("superglue" if "super" in task.hub[0] else "glue") / task.hub[1]
        for split in task.test_splits:
            (folder / f"{split}_sample.jsonl").rename(folder / f"{split}.jsonl")
        rows = {**task.official_rows, **dict.fromkeys(task.test_splits, 6)}
        monkeypatch.setitem(TASKS, name, replace(task, official_rows=rows))
    return own_data


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory) -> Path:
    """A BERT of two layers with random weights."""
    folder = tmp_path_factory.mktemp("encoders") / "bert"
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"cls_token": "<bos>", "sep_token": "<eos>"})
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=256,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def plan_of(suite_data, decoder_folder, bert_folder):
    """A plan with tiny models."""

    def make(suite: str, **options) -> Plan:
        tasks = tuple(name for name, task in TASKS.items() if task.hub[0].endswith(("/glue", "/super_glue")))
        defaults = {
            "model": str(decoder_folder),
            "arms": ("main",),
            "tasks": tuple(
                name for name in tasks if ("super" in TASKS[name].hub[0]) == (suite == "superglue")
            ),
            "seeds": 1,
            "encoder_model": str(bert_folder),
            "encoder": {"head": {"width": 8}},
            "recipes": dict.fromkeys(TASKS, RECIPE),
            "training": {"use_cpu": True, "bf16": False},
            "data_dir": str(suite_data),
        }
        return Plan(suite=suite, **(defaults | options))

    return make
