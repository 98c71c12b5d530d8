"""The baseline most people would try first: `AutoModelForSequenceClassification` and Hugging Face's Trainer.

Causal attention, a linear layer on the last token, batches padded to their longest row, everything trained,
one learning rate. Nothing of this package computes here; rows, texts, steps, schedule, seeds and the choice
of the checkpoint are those of the other arms.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)

from ..decoders import load_decoder, quiet
from ..evaluation.evaluate import texts
from ..evaluation.metrics import compute_metrics, higher_is_better
from ..losses import loss_for
from ..tasks import Split, TaskData
from ..tasks.base import GROUP
from ..text import TextConfig, TextTokenizer
from ..training.checkpoint_folder import checkpoint_folder, last_checkpoint
from ..training.collation import Lists
from ..training.run_record import hardware, peak_memory, versions
from .plan import Plan, Trial


class StockClassifier:
    """A trained stock classifier that scores splits.

    Args:
        plan: The benchmark.
        trial: The trial.
        data: Its rows.
        output: Folder of its checkpoints.
    """

    def __init__(self, plan: Plan, trial: Trial, data: TaskData, output: Path) -> None:
        recipe, task = plan.recipes[trial.task], data.task
        self.task, self.max_length, ranking = task, recipe["max_length"], task.problem_type == "ranking"
        decoder = load_decoder(plan.model)
        self.tokenizer: PreTrainedTokenizerBase = decoder.tokenizer
        self.tokenizer.padding_side = "right"
        # The tokenizer adds its own special tokens.
        self.text = TextTokenizer(self.tokenizer, TextConfig(task.template, bos=False, eos=False))
        torch.manual_seed(trial.seed)
        folder = str(decoder.backbone.config._name_or_path)
        with quiet():
            model = AutoModelForSequenceClassification.from_pretrained(
                folder, num_labels=len(task.labels), dtype=torch.float32, trust_remote_code=False
            )
        model.config.pad_token_id = self.tokenizer.pad_token_id
        if not ranking:
            model.config.problem_type = task.problem_type
        training = dict(plan.training)
        args = TrainingArguments(
            output_dir=str(checkpoint_folder(output)),
            seed=trial.seed,
            learning_rate=recipe["learning_rate"],
            num_train_epochs=recipe["num_train_epochs"],
            per_device_train_batch_size=recipe["batch_size"],
            per_device_eval_batch_size=32,
            warmup_steps=0.1,
            weight_decay=0.01,
            lr_scheduler_type="linear",
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=1,
            load_best_model_at_end=True,
            metric_for_best_model=task.main_metric,
            greater_is_better=higher_is_better(task.main_metric),
            report_to="none",
            remove_unused_columns=False,
            disable_tqdm=True,
            **{name: training[name] for name in ("bf16", "use_cpu") if name in training},
        )
        validation = data.judged_by
        assert isinstance(data.train, Dataset)  # the suites' tasks have rows
        train_rows = self._tokenised(data.train)
        self.tokens = sum(map(len, train_rows["input_ids"]))
        self.trainer = _Trainer(
            ranking=ranking,
            model=model,
            args=args,
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

    def train(self) -> dict[str, Any]:
        """Train, from the last checkpoint if there is one; gives a record like `run.json`'s."""
        started = time.perf_counter()
        found = last_checkpoint(str(self.trainer.args.output_dir))
        output = self.trainer.train(resume_from_checkpoint=found)
        tokens = self.tokens * self.trainer.args.num_train_epochs
        steps_before = int(found.rpartition("-")[2]) if found else 0
        here = 1 - steps_before / self.trainer.state.global_step  # part of the work
        return {
            "tokens": int(tokens),
            "tokens_per_second": here * tokens / output.metrics["train_runtime"],
            "wall_seconds": round(time.perf_counter() - started, 1),
            "history": self.trainer.state.log_history,
            "versions": versions(),
            "hardware": hardware(),
            "peak_memory": peak_memory(),
        }

    def score(self, split: Split) -> np.ndarray:
        """Scores of a split, float32 `[N, num_labels]`."""
        self.trainer.compute_metrics = None  # it knows the validation rows' labels only
        return np.asarray(self.trainer.predict(self._tokenised(split.rows)).predictions, dtype=np.float32)

    def _tokenised(self, rows: Dataset) -> Dataset:
        rendered = [self.text.render(row) for row in texts(rows)]
        ids = self.tokenizer(rendered, truncation=True, max_length=self.max_length)
        return Dataset.from_dict({**ids, "label": rows["label"]})


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
    """The stock Trainer; only the loss of lists, which transformers has none of, is ours."""

    def __init__(self, *, ranking: bool, **options: Any) -> None:
        self.ranking = ranking
        super().__init__(**options)

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
