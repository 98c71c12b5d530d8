"""Training a backbone to say what masked tokens were."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..encoder import Encoder
from ..packing import moved
from ..training.arguments import EncoderTrainingArguments
from ..training.packed_trainer import PackedTrainer, Trainable
from ..training.resuming import decisive_settings
from .language_head import LanguageHead
from .masking import NO_TARGET, MaskedCollator, MaskedDocuments

METRICS = ("masked_loss", "masked_accuracy")


class _States(Trainable):
    """An encoder whose passes give its tokens' last states `[B, S, H]`."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        fill = self.encoder.device.type == "cpu"
        return self.encoder.encode_tokens(input_ids, attention_mask, fill=fill)


class MaskedTrainer(PackedTrainer):
    """Trains an encoder's backbone on masked documents; the loss of a batch is the mean over masked tokens.

    Args:
        encoder: Whose backbone; which of its parameters train is set beforehand.
        args: Options. A row of them is a batch of documents.
        head: The decoder's.
        train_items: Documents to learn from.
        heldout: Documents to judge by, always with the same masks.
    """

    def __init__(
        self,
        encoder: Encoder,
        args: EncoderTrainingArguments,
        head: LanguageHead,
        train_items: MaskedDocuments,
        heldout: MaskedDocuments,
    ) -> None:
        self.head, self.heldout = head, heldout
        self.collator = MaskedCollator(int(encoder.tokenizer.pad_token_id or 0))
        super().__init__(_States(encoder), args, self.collator, train_items, heldout)
        # Batches decide what is learnt; those of held-out text only how fast it is judged.
        self._settings = decisive_settings(encoder, args, METRICS, train_items, heldout) | {
            "batches of an epoch": str(len(train_items))
        }

    def _set_train_mode(self, model: nn.Module) -> None:
        model.eval()  # the encoder's dropout is for its task, whose rows are few; text is not

    def _count_losses(self, batch: dict[str, Any]) -> int:
        return int((batch["labels"] != NO_TARGET).sum())

    def _loss(self, states: Tensor, inputs: dict[str, Any], rows: list[int], total: Any) -> Tensor:
        loss, _ = self._judge(states, inputs["labels"][rows])
        return loss / total

    def _judge(self, states: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of losses and number of right answers for states `[B, S, H]` and labels `[B, S or more]`, these
        on the CPU."""
        labels = labels[:, : states.shape[1]].flatten()
        asked = (labels != NO_TARGET).nonzero().flatten()
        places, targets = (moved(each, states.device) for each in (asked, labels[asked]))
        return self.head.loss(states.flatten(0, 1)[places], targets)

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:
        """Mean loss and accuracy at the masked tokens of the held-out documents, as training computes."""
        model: Any = self.model
        model.eval()
        loss = right = asked = 0.0
        for number in range(len(self.heldout)):
            batch = self.collator([self.heldout[number]])
            with torch.no_grad(), self.accelerator.autocast():
                states = model(batch["input_ids"], batch["attention_mask"])
                losses, answers = self._judge(states, batch["labels"])
            loss, right = loss + losses.item(), right + answers.item()
            asked += self._count_losses(batch)
        found = dict(zip(METRICS, (loss / asked, right / asked), strict=True))
        named = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(dict(named))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, named)
        return named
