"""Fine-tuning on the rows of a task."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import get_device_states, set_device_states

from ..encoder import Encoder
from ..evaluation.metrics import compute_metrics
from ..packing import moved, plan_batches
from ..scoring import score_token_ids
from ..tasks import Task
from .arguments import EncoderTrainingArguments
from .collation import Collator, TokenizedRows, TrainingItems
from .packed_trainer import PackedTrainer, Trainable
from .resuming import decisive_settings


class _Scores(Trainable):
    """An encoder whose passes give scores `[B, num_labels]`."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits: Tensor = self.encoder(input_ids, attention_mask).logits
        return logits


class EncoderTrainer(PackedTrainer):
    """Trains an encoder on tokenised rows.

    The loss of a batch is the mean of its rows' losses, in ranking of its lists'. A list of more tokens than
    the budget is computed in parts, see `_backward_in_parts`.

    Args:
        encoder: What to train; which parameters train is set beforehand (`parameters.set_trainable`).
        args: Options. `output_dir` holds the checkpoints.
        task: Says which metrics judge, and the main one.
        train_items: Rows, or in ranking lists, to learn from.
        validation_rows: Rows to judge by.
    """

    def __init__(
        self,
        encoder: Encoder,
        args: EncoderTrainingArguments,
        task: Task,
        train_items: TrainingItems,
        validation_rows: TokenizedRows,
    ) -> None:
        self.task, self.validation_rows = task, validation_rows
        collator = Collator(int(encoder.tokenizer.pad_token_id or 0))
        super().__init__(_Scores(encoder), args, collator, train_items, validation_rows)
        self._settings = decisive_settings(encoder, args, task.metrics, train_items, validation_rows)
        self._scores_by_step: dict[int, np.ndarray] = {}

    # ------------------------------------------------------------------------------------------- one step

    def _count_losses(self, batch: dict[str, Any]) -> int:
        return int(batch["lists"].max()) + 1

    def _backward(
        self, model: nn.Module, inputs: dict[str, Any], batch: list[int], total: Any, *, last: bool
    ) -> Tensor:
        tokens = sum(inputs["lengths"][row] for row in batch)
        in_parts = len(batch) > 1 and tokens > self.options.max_tokens
        backward = self._backward_in_parts if in_parts else super()._backward
        return backward(model, inputs, batch, total, last=last)

    def _backward_in_parts(
        self, model: nn.Module, inputs: dict[str, Any], batch: list[int], total: Any, *, last: bool
    ) -> Tensor:
        """As `_backward`, for a list that doesn't fit the budget: the memory of a part, a third more time.

        All scores first, without a graph; from them the loss and its gradient by the scores; then each part
        again, with its graph, from that gradient on. The second time dropout draws the masks of the first.
        (Gradient caching, Gao et al., arXiv 2101.06983.)
        """
        sizes = [inputs["lengths"][row] for row in batch]
        parts = [[batch[place] for place in part] for part in plan_batches(sizes, self.options.max_tokens)]
        order = [row for part in parts for row in part]
        states, scores = [], []
        for part in parts:
            states.append(_random_state(self.encoder.device))
            with torch.no_grad(), self.compute_loss_context_manager():
                scores.append(self._output(model, inputs, part))
        logits = torch.cat(scores).requires_grad_()
        with self.compute_loss_context_manager():
            loss = self._loss(logits, inputs, order, total)
        gradients = torch.autograd.grad(loss, logits)[0].split([len(part) for part in parts])
        for number, (part, state, gradient) in enumerate(zip(parts, states, gradients, strict=True)):
            _set_random_state(state)
            with self._synchronised(model, last and number == len(parts) - 1):
                with self.compute_loss_context_manager():
                    again = self._output(model, inputs, part)
                self.accelerator.backward((again * gradient).sum())
        return loss.detach()

    def _loss(self, logits: Tensor, inputs: dict[str, Any], rows: list[int], total: Any) -> Tensor:
        labels, lists = (moved(inputs[name][rows], logits.device) for name in ("labels", "lists"))
        return self.encoder.loss(logits, labels, "sum", lists, self.options.ranking_loss) / total

    # ----------------------------------------------------------------------------------------- evaluation

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:
        """Metrics of the task on the validation rows, in the precision of training."""
        rows = self.validation_rows
        logits = self._score_validation()
        metrics = compute_metrics(self.task.metrics, logits, rows.labels.numpy(), **rows.together())
        named = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        self._scores_by_step[self.state.global_step] = logits
        self.log(dict(named))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, named)
        return named

    def _score_validation(self) -> np.ndarray:
        rows = self.validation_rows
        with self.accelerator.autocast():  # accelerate wrapped only the model's forward, not the encoder's
            budget = self.options.eval_max_tokens
            return score_token_ids(self.encoder, rows.input_ids, budget, "eval_max_tokens")

    def scores_of_validation(self) -> np.ndarray:
        """Scores of the validation rows by the weights as they are at the end, float32 `[N, num_labels]`.

        Remembered if they were evaluated in this process, computed otherwise.
        """
        best = self.state.best_global_step if self.options.load_best_model_at_end else None
        scores = self._scores_by_step.get(best or self.state.global_step)
        return self._score_validation() if scores is None else scores

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Whether an evaluation is the best so far; then its weights are saved, however rarely others are."""
        is_best = bool(super()._determine_best_metric(metrics, trial))
        if is_best and self.options.load_best_model_at_end:
            self.control.should_save = True
        return is_best


_RandomState = tuple[Tensor, list[int], list[Tensor]]


def _random_state(device: torch.device) -> _RandomState:
    """Of the CPU, and of the device if it is a GPU."""
    return torch.get_rng_state(), *get_device_states(torch.empty(0, device=device))


def _set_random_state(state: _RandomState) -> None:
    cpu, devices, states = state
    torch.set_rng_state(cpu)
    set_device_states(devices, states)
