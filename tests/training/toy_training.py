"""A toy task that a tiny encoder learns in a second, and the options of a short run on a CPU."""

from pathlib import Path

import torch
from datasets import Dataset

from gemma_encoder.encoder import Encoder
from gemma_encoder.errors import CheckpointError
from gemma_encoder.tasks import Task, TaskData
from gemma_encoder.testing import tiny_decoder
from gemma_encoder.training import EncoderTrainingArguments

WORDS = ["good", "bad", "film", "the river is", "not", "very very good", "money in the bank", "a"]


def rows_of(count: int, offset: int = 0, *, label=lambda number: number % 2) -> Dataset:
    """Rows of different lengths; the label can be read off the first word."""
    texts = [
        f"{'good' if number % 2 else 'bad'} {' '.join(WORDS[: number % 7])}"
        for number in range(offset, offset + count)
    ]
    return Dataset.from_dict(
        {"text": texts, "label": [label(n) for n in range(count)], "row": [n + 2 for n in range(count)]}
    )


CLASSES = Task(
    "sentiment", ("text",), "label", "single_label_classification", ("negative", "positive"), ("accuracy",)
)


SCORES = Task("size", ("text",), "label", "regression", ("score",), ("pearson", "spearman"))


def data_of(task: Task = CLASSES, train_rows: int = 40, **options) -> TaskData:
    return TaskData(task, rows_of(train_rows, **options), rows_of(12, 100, **options))


def encoder_of(task: Task = CLASSES, **options) -> Encoder:
    return Encoder.from_decoder(
        tiny_decoder("gemma3"),
        seed=0,
        problem_type=task.problem_type,
        labels=task.labels,
        verify=False,
        **options,
    )


def arguments(folder: Path, **options) -> EncoderTrainingArguments:
    defaults = {
        "output_dir": str(folder / "model"),
        "learning_rate": 3e-3,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 8,
        "use_cpu": True,
        "bf16": False,
    }
    return EncoderTrainingArguments(**(defaults | options))


def fail_to_save(patch) -> None:
    """Let the model never be saved, as on a full disk."""

    def full(*args, **kwargs):
        raise CheckpointError("No space left on device")

    patch.setattr(Encoder, "save_pretrained", full)


def descend(encoder: Encoder, mean_loss, steps: int) -> dict[str, torch.Tensor]:
    """Weights after steps of gradient descent at rate 0.05, written out; token embeddings stay frozen."""
    encoder.train()
    encoder.stock_backbone.get_input_embeddings().requires_grad_(False)
    trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    for _ in range(steps):
        gradients = torch.autograd.grad(mean_loss(), trained)
        with torch.no_grad():
            for parameter, gradient in zip(trained, gradients, strict=True):
                parameter -= 0.05 * gradient
    return weights(encoder)


def weights(encoder: Encoder) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in encoder.state_dict().items()}


def difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Largest absolute difference between two states of the same names."""
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)
