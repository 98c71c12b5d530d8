"""The baseline most people would try first: `AutoModelForSequenceClassification` and Hugging Face's Trainer.

Causal attention, a linear layer on the last token, batches padded to their longest row, everything trained,
one learning rate. Nothing of this package computes here; rows, texts, steps, schedule, seeds, the choice of
the checkpoint and the clock are those of the other arms.
"""

from __future__ import annotations

import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)

from ..decoders import load_decoder, quiet
from ..evaluation.evaluate import texts
from ..evaluation.metrics import compute_metrics, higher_is_better
from ..losses import loss_for
from ..machine import hardware, peak_memory, versions
from ..tasks import Split, Task, TaskData
from ..tasks.base import GROUP
from ..text import TextConfig, TextTokenizer
from ..training.arguments import EncoderTrainingArguments
from ..training.callbacks import Throughput, seconds_since
from ..training.checkpoint_folder import checkpoint_folder, last_checkpoint
from ..training.collation import Lists
from .plan import Plan


class StockClassifier:
    """A trained stock classifier that scores splits.

    Args:
        plan: The benchmark.
        data: The trial's rows.
        args: Options as the other arms would have them; checkpoints lie beside its `output_dir`, as theirs.
    """

    def __init__(self, plan: Plan, data: TaskData, args: EncoderTrainingArguments) -> None:
        task = data.task
        self.max_length, ranking = plan.recipes[task.name]["max_length"], task.problem_type == "ranking"
        decoder = load_decoder(plan.model)
        self.tokenizer: PreTrainedTokenizerBase = decoder.tokenizer
        self.tokenizer.padding_side = "right"
        # The tokenizer adds its own special tokens.
        self.text = TextTokenizer(self.tokenizer, TextConfig(task.template, bos=False, eos=False))
        torch.manual_seed(args.seed)
        folder = str(decoder.backbone.config._name_or_path)
        with quiet():
            model = AutoModelForSequenceClassification.from_pretrained(
                folder, num_labels=len(task.labels), dtype=torch.float32, trust_remote_code=False
            )
        model.config.pad_token_id = self.tokenizer.pad_token_id
        if not ranking:
            model.config.problem_type = task.problem_type
        validation = data.judged_by
        assert isinstance(data.train, Dataset)  # the suites' tasks have rows
        train_rows = self._tokenised(data.train)
        self.trainer = _Trainer(
            ranking=ranking,
            model=model,
            args=_stock_arguments(plan, task, args),
            train_dataset=Lists(train_rows, data.train[GROUP]) if ranking else train_rows,
            eval_dataset=self._tokenised(validation.rows),
            data_collator=_Collator(self.tokenizer),
            compute_metrics=lambda predicted: compute_metrics(
                task.metrics,
                np.asarray(predicted.predictions),
                validation.rows["label"][:],
                **validation.together(),
            ),
        )
        if args.early_stopping_patience is not None:
            self.trainer.add_callback(EarlyStoppingCallback(args.early_stopping_patience))

    def train(self) -> dict[str, Any]:
        """Train, from the last checkpoint if there is one; gives a record like `run.json`'s."""
        started = time.perf_counter()
        found = last_checkpoint(str(self.trainer.args.output_dir))
        self.trainer.train(resume_from_checkpoint=found)
        work = self.trainer.throughput
        return {
            "resumed_from": Path(found).name if found else None,  # then the work is that of the last part
            "steps": self.trainer.state.global_step,
            "tokens": work.tokens,
            "tokens_per_second": round(work.tokens_per_second, 1),
            "train_seconds": round(work.seconds, 1),
            "wall_seconds": round(time.perf_counter() - started, 1),
            "history": self.trainer.state.log_history,
            "versions": versions(),
            "hardware": hardware(),
            "peak_memory": peak_memory(),
        }

    @property
    def embeddings_trained(self) -> bool:
        """Whether the token embeddings learn."""
        embeddings: Any = self.trainer.model.get_input_embeddings()  # type: ignore[union-attr, operator]
        return bool(embeddings.weight.requires_grad)

    def score(self, split: Split) -> np.ndarray:
        """Scores of a split, float32 `[N, num_labels]`."""
        self.trainer.compute_metrics = None  # it knows the validation rows' labels only
        return np.asarray(self.trainer.predict(self._tokenised(split.rows)).predictions, dtype=np.float32)

    def _tokenised(self, rows: Dataset) -> Dataset:
        rendered = [self.text.render(row) for row in texts(rows)]
        ids = self.tokenizer(rendered, truncation=True, max_length=self.max_length)
        return Dataset.from_dict({**ids, "label": rows["label"]})


def _stock_arguments(plan: Plan, task: Task, args: EncoderTrainingArguments) -> TrainingArguments:
    """What our training sets otherwise than transformers does and what the plan asks for, where the stock
    Trainer has it too."""
    ours = EncoderTrainingArguments.__annotations__.keys() | plan.training.keys()
    shared = [field.name for field in fields(TrainingArguments) if field.init and field.name in ours]
    stock = TrainingArguments(
        **{
            "per_device_eval_batch_size": 32,
            "disable_tqdm": True,
            **{name: getattr(args, name) for name in shared},
            "output_dir": str(checkpoint_folder(str(args.output_dir))),
            "metric_for_best_model": task.main_metric,
            "greater_is_better": higher_is_better(task.main_metric),
        }
    )
    stock._n_gpu = min(stock._n_gpu, 1)  # DataParallel would multiply the batch; ours doesn't use it either
    return stock


class _Collator(DataCollatorWithPadding):
    """Pads to the longest row; rows of a list stay together and know which one they are of."""

    def __call__(self, items: Any) -> Any:
        if not isinstance(items[0], list):
            return super().__call__(items)
        batch = super().__call__([row for item in items for row in item])
        batch["lists"] = torch.arange(len(items)).repeat_interleave(
            torch.tensor([len(each) for each in items])
        )
        return batch


class _Trainer(Trainer):
    """The stock Trainer; only the loss of lists, which transformers has none of, and the clock are ours."""

    def __init__(self, *, ranking: bool, **options: Any) -> None:
        self.ranking, self.throughput = ranking, Throughput()
        super().__init__(**options)
        # Its classifiers take the number of rows in a step and don't use it: the means of accumulated batches
        # would be summed. Without it the Trainer divides them.
        self.model_accepts_loss_kwargs = False

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        started, mask = time.perf_counter(), inputs["attention_mask"]
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.throughput.add(int(mask.sum()), mask.numel(), seconds_since(started))
        return loss

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if self.ranking:
            lists = inputs.pop("lists", None)
            labels = inputs.pop("labels")
            outputs = model(**inputs)
            if lists is None:  # evaluation goes by rows, its loss means nothing
                lists = torch.arange(len(labels), device=labels.device)
            loss = loss_for("ranking")(outputs.logits, labels, "mean", lists)
            return (loss, outputs) if return_outputs else loss
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
