"""What a training run computes, against a loop written out; order of rows, layout, dropout, processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toy_training import difference, new_encoder, toy_data, toy_rows, weights

from gemma_encoder.dropout import DropoutConfig
from gemma_encoder.training import train
from gemma_encoder.training.collation import Collator, TokenizedRows

# Adam's first steps are the gradients' signs times the learning rate: an epsilon this large makes them
# smooth, so that rounding stays rounding. A wrong normalisation changes weights by about 1e-3.
SMOOTH = {"adam_epsilon": 1e-3}


def trained(arguments, tmp_path, name, *, layout="packed", **options):
    encoder = new_encoder()
    encoder.layout = layout
    train(encoder, toy_data(), arguments(output_dir=str(tmp_path / name), **SMOOTH, **options))
    return weights(encoder)


def test_the_padded_layout_learns_the_same(arguments, tmp_path):
    reference = trained(arguments, tmp_path, "reference")
    assert difference(reference, weights(new_encoder())) > 1e-3
    assert difference(reference, trained(arguments, tmp_path, "other", layout="padded", max_tokens=50)) < 1e-5


def test_training_equals_a_loop_written_out(arguments, tmp_path):
    """20 rows in batches of 8: the last batch has 4, and is normalised by 4."""
    encoder = new_encoder()
    options = {
        "max_grad_norm": 0.5,
        "weight_decay": 0.1,
        "head_learning_rate": 3e-3,
        "warmup_steps": 0,
        **SMOOTH,
    }
    order: list[int] = []
    collate = Collator.__call__

    def remember(self, rows):
        order.extend(row["rows"] for row in rows)
        return collate(self, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Collator, "__call__", remember)
        train(encoder, toy_data(), arguments(max_tokens=25, **options))
    assert sorted(order) == list(range(2, 22)) and order != sorted(order)

    reference = new_encoder()
    reference.train()
    reference.stock_backbone.get_input_embeddings().weight.requires_grad_(False)
    groups = []
    for name, parameter in reference.named_parameters():
        rate = 3e-3 if name.startswith(("head.", "pooler.")) else 1e-3
        decay = 0.0 if "norm" in name or name.endswith("bias") else 0.1
        if parameter.requires_grad:
            groups.append({"params": [parameter], "lr": rate, "weight_decay": decay})
    optimizer = torch.optim.AdamW(groups, eps=1e-3)
    rows = toy_rows(20, 0)
    for step in range(3):
        batch = [rows[number - 2] for number in order[8 * step : 8 * step + 8]]
        inputs = reference.collate(reference.tokenize([row["text"] for row in batch]).input_ids)
        logits = reference(**inputs).logits
        torch.nn.functional.cross_entropy(logits, torch.tensor([row["label"] for row in batch])).backward()
        torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
        for group in optimizer.param_groups:  # linear decay to 0 over 3 steps
            group["lr"] = group.setdefault("first", group["lr"]) * (3 - step) / 3
        optimizer.step()
        optimizer.zero_grad()
    assert difference(weights(encoder), weights(reference)) < 1e-5


def test_the_seed_decides_the_order_of_rows_and_nothing_drawn_before_does(arguments, tmp_path):
    first = trained(arguments, tmp_path, "first", seed=3)
    torch.rand(17)
    assert difference(first, trained(arguments, tmp_path, "second", seed=3)) == 0
    assert difference(first, trained(arguments, tmp_path, "third", seed=4)) > 1e-4


def test_dropout_is_on_in_training(arguments, tmp_path):
    dropped = new_encoder(dropout=DropoutConfig.uniform(0.3))
    train(dropped, toy_data(), arguments(**SMOOTH))
    assert difference(weights(dropped), trained(arguments, tmp_path, "none")) > 1e-4
    assert not any(module.training for module in dropped.modules())


def test_rows_are_padded_on_the_right_and_masked():
    rows = TokenizedRows(new_encoder(), toy_rows(3, 0))
    batch = Collator(pad_token_id=0)([rows[index] for index in range(3)])
    for index in range(3):
        ids = list(rows.input_ids[index])
        assert batch["input_ids"][index, : len(ids)].tolist() == ids
        assert batch["attention_mask"][index].tolist() == [1] * len(ids) + [0] * (
            batch["input_ids"].shape[1] - len(ids)
        )
    assert batch["rows"].tolist() == [2, 3, 4]


PROCESS = """
import sys
sys.path.insert(0, {here!r})
from toy_training import new_encoder, toy_data, weights
from safetensors.torch import save_file
from gemma_encoder.training import EncoderTrainingArguments, train

encoder = new_encoder()
args = EncoderTrainingArguments(
    output_dir={folder!r} + "/run", use_cpu=True, bf16=False, learning_rate=1e-3, num_train_epochs=2,
    logging_steps=1,
    per_device_train_batch_size=4, max_tokens=40, adam_epsilon=1e-3, warmup_steps=0, ddp_backend="gloo")
train(encoder, toy_data(24), args)
save_file(weights(encoder), {folder!r} + f"/weights-{{args.process_index}}.safetensors")
"""


@pytest.mark.slow
def test_two_processes_learn_what_one_does(arguments, tmp_path):
    """Rank 0 and 1 take 4 rows each, and cut them into different numbers of passes; one process takes 8."""
    program = tmp_path / "program.py"
    program.write_text(PROCESS.format(here=str(Path(__file__).parent), folder=str(tmp_path)))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(program),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    one = new_encoder()
    options = {"num_train_epochs": 2, "warmup_steps": 0, **SMOOTH}
    train(one, toy_data(24), arguments(output_dir=str(tmp_path / "one"), **options))
    for rank in range(2):
        assert difference(load_file(tmp_path / f"weights-{rank}.safetensors"), weights(one)) < 1e-5
    assert (tmp_path / "run" / "run.json").is_file() and not (tmp_path / "run.checkpoints").exists()
