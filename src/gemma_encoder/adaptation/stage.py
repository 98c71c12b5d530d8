"""The adaptation stage: a backbone whose attention was switched learns plain text before any task."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import set_seed

from ..decoders import describe_decoder
from ..encoder import Encoder
from ..errors import ConfigError, DataError
from ..training import EncoderTrainingArguments
from ..training.checkpoint_folder import begin
from ..training.parameters import add_lora, set_trainable
from ..training.recording import begun_run, finish, recorded
from ..training.run_record import resolved_arguments
from ..training.training import check_weights
from .corpus import Corpus
from .language_head import language_head
from .masking import MaskedDocuments, Masking, Objective, mask_token
from .trainer import METRICS, MaskedTrainer

HELDOUT_TOKENS = 20_000
HELDOUT_SHARE = 0.1

_LEFT_OUT = {
    "early_stopping_patience": None,
    "gradient_accumulation_steps": 1,
    "head_learning_rate": None,
    "lora_dropout": 0.0,
    "padded_positions": "text",
    "padding_side": "right",
    "ranking_loss": "softmax",
}
"""Options that would do nothing here, or other than the plan says, with the value that asks for nothing."""


@dataclass(frozen=True)
class AdaptationPlan:
    """What is learnt, and how much of it.

    Attributes:
        objective: `mntp` or `mlm`; see `masking.Masking`.
        tokens: Tokens to train on, to within a step; a smaller corpus is seen again, with other masks.
        batch_tokens: Tokens of an optimiser step, about; those of the longest document at least.
        mask_rate: Share of the tokens that are masked.
        mask_token: Stands in their place; see `masking.mask_token`.
        original_share: Share of the decoder's own weights in those that are saved: a mean of both (BidirLM,
            arXiv 2604.02045) forgets less of what the decoder knew.
        evaluations: How often the held-out documents are judged on the way.

    Raises:
        ConfigError: A value is not allowed.
    """

    objective: Objective = "mntp"
    tokens: int = 1_000_000
    batch_tokens: int = 4096
    mask_rate: float = 0.2
    mask_token: str | None = None
    original_share: float = 0.0
    evaluations: int = 10

    def __post_init__(self) -> None:
        for name in ("tokens", "batch_tokens", "evaluations"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}", fix="use a whole number of at least 1")
        if not 0 <= self.original_share < 1:
            raise ConfigError(f"original_share is {self.original_share}", fix="use a share from 0 to below 1")
        Masking(self.objective, self.mask_rate, 0)

    def steps(self, items: MaskedDocuments) -> int:
        """Optimiser steps over these batches in which `tokens` are learnt."""
        return math.ceil(self.tokens * len(items) / items.tokens)


@dataclass(frozen=True)
class AdaptationResult:
    """What an adaptation stage gave.

    Attributes:
        before: Loss and accuracy at the masked tokens of the held-out documents, before the first step.
        metrics: The same of the saved weights.
        output_dir: The saved folder.
        run: The content of `run.json`.
    """

    before: dict[str, float]
    metrics: dict[str, float]
    output_dir: Path
    run: dict[str, Any] = field(repr=False)


def adapt(
    encoder: Encoder,
    corpus: Corpus,
    plan: AdaptationPlan,
    args: EncoderTrainingArguments,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> AdaptationResult:
    """Train an encoder's backbone on masked text and save the encoder in `args.output_dir`.

    Token embeddings, the language-model head, pooler and head stay as they are.

    Args:
        encoder: Changed in place; ends in eval mode.
        corpus: What to learn from; a part of it is held out.
        plan: What is learnt, and how much of it.
        args: How: learning rate, what is tuned, precision. Its numbers of epochs, steps and rows are those of
            the plan, and so are the times of evaluations and checkpoints. Without a whole step of warm-up
            there is none.
        resume: Go on from the last whole checkpoint; the result is that of an uninterrupted run.
        overwrite: Replace a model in `output_dir`, and delete the checkpoints of an interrupted run.

    Raises:
        ConfigError: The options don't go together, or there is an earlier run in `output_dir`.
        DataError: The corpus has fewer than two documents that differ and have a token to mask.
        TrainingError: The loss is not finite, a checkpoint can't be written, or there is nothing to resume.
        CheckpointError: The result can't be saved.
    """
    check_adaptation(encoder, args)
    output_dir = Path(str(args.output_dir)).absolute()
    head = language_head(encoder)
    train_items, heldout = masked_documents(encoder, corpus, plan, args)
    masking, steps = train_items.masking, plan.steps(train_items)
    check_warmup(args, steps)
    checkpoints, found = begin(args, output_dir, resume=resume, overwrite=overwrite)
    started = time.perf_counter()
    set_seed(args.seed)
    if args.tune == "lora":
        add_lora(encoder, args)
    set_trainable(encoder, args.tune, head=False)
    trainer_args = _trainer_args(args, steps, plan.evaluations, checkpoints)
    trainer_args.eval_on_start = found is None  # checkpoints keep it, so that a resumed run knows it too
    run = {
        **begun_run(encoder, args.seed, found),
        "plan": asdict(plan),
        "objective": plan.objective,
        "original_share": plan.original_share,
        "mask": {"rate": plan.mask_rate, "token": encoder.tokenizer.convert_ids_to_tokens(masking.token)},
        "decoder": describe_decoder(encoder.config.decoder),
        "training": resolved_arguments(trainer_args),
        "data": {
            "source": corpus.sources,
            "texts": corpus.texts,
            "documents": len(corpus.documents),
            "corpus_tokens": corpus.tokens,
            "by_source": corpus.by_source,
            "learnt_documents": len(train_items.documents),
            "learnt_tokens": train_items.tokens,
            "heldout_documents": len(heldout.documents),
        },
    }
    trainer = MaskedTrainer(encoder, trainer_args, head, train_items, heldout)
    original = _trained_weights(encoder) if plan.original_share else {}
    with recorded(run, trainer, checkpoints, started):
        trainer.train(resume_from_checkpoint=found)
        _mix(encoder, original, plan.original_share)
        metrics = _metrics(trainer.evaluate())
        encoder.eval()
        if trainer.is_world_process_zero():
            encoder.save_pretrained(output_dir, merge_adapter=args.merge_adapter)
    before = _before(trainer.state.log_history)
    run |= {"metrics": metrics, "before": before, "history": trainer.state.log_history}
    finish(run, trainer, checkpoints, output_dir)
    return AdaptationResult(before, metrics, output_dir, run)


def check_adaptation(encoder: Encoder, args: EncoderTrainingArguments) -> None:
    """Find what would fail, or do nothing, before the first step.

    Raises:
        ConfigError: The encoder and the options don't go together.
    """
    if args.tune == "head":
        raise ConfigError("tune=head leaves nothing to adapt", fix="use full or lora")
    if args.train_embeddings:
        raise ConfigError("Token embeddings stay as they are here", fix="leave train_embeddings out")
    for name, nothing in _LEFT_OUT.items():
        if (value := getattr(args, name)) != nothing:
            raise ConfigError(f"{name} is {value!r}, which adapting has no use for", fix=f"leave {name} out")
    if args.layout not in (None, encoder.layout):
        raise ConfigError(
            f"layout is {args.layout!r}, and adapting keeps the encoder's, {encoder.layout}",
            fix="leave layout out",
        )
    if args.attention_ramp and (encoder.layout == "padded" or encoder.config.attention == "causal"):
        raise ConfigError(
            "attention_ramp is for bidirectional attention in the packed layout", fix="leave it out"
        )
    check_weights(encoder, args)


def check_warmup(args: EncoderTrainingArguments, steps: int) -> None:
    """Refuse a warm-up that the training ends in; its first step has a learning rate of 0.

    Raises:
        ConfigError: Names both numbers of steps.
    """
    if args.warmup_steps >= max(1, steps):
        raise ConfigError(
            f"warmup_steps is {args.warmup_steps:g}, and there are {steps} steps of training",
            fix="use fewer, or a share of all steps, or learn from more tokens",
        )


def masked_documents(
    encoder: Encoder, corpus: Corpus, plan: AdaptationPlan, args: EncoderTrainingArguments
) -> tuple[MaskedDocuments, MaskedDocuments]:
    """What is learnt from, in batches of optimiser steps, and what is judged by. A document that no token can
    be asked of is in neither.

    Raises:
        ConfigError: `mask_token` is not one token.
        DataError: There are fewer than two documents that differ.
    """
    masking = Masking(plan.objective, plan.mask_rate, mask_token(encoder.tokenizer, plan.mask_token))
    special = frozenset(encoder.tokenizer.all_special_ids)
    documents = [each for each in corpus.documents if len(masking.places(each, special))]
    learnt, judged = hold_out(documents, args.seed)
    longest = max(map(len, documents))
    step = max(plan.batch_tokens, longest)
    at_once = max(min(args.eval_max_tokens, args.max_tokens), longest)
    return (
        MaskedDocuments(learnt, masking, special, batch_tokens=step, seed=args.seed),
        MaskedDocuments(judged, masking, special, batch_tokens=at_once, seed=args.seed),
    )


def hold_out(documents: Sequence[np.ndarray], seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Documents to learn from and to judge by: a tenth of the tokens, at most `HELDOUT_TOKENS`; one at least.

    Those that occur several times count once, and no document is in both parts.

    Raises:
        DataError: There are fewer than two documents that differ.
    """
    distinct = {document.tobytes(): document for document in documents}
    if len(distinct) < 2:
        raise DataError(
            "To learn from one document and judge by another takes two that differ and have a token to mask; "
            f"the corpus has {len(distinct)}",
            fix="give more text",
        )
    names, lengths = list(distinct), np.array([len(document) for document in distinct.values()])
    order = np.random.default_rng(seed).permutation(len(names))
    wanted = min(HELDOUT_TOKENS, HELDOUT_SHARE * lengths.sum())
    count = min(int(np.searchsorted(lengths[order].cumsum(), wanted)) + 1, len(names) - 1)
    chosen = {names[number] for number in order[:count]}
    return (
        [document for document in documents if document.tobytes() not in chosen],
        [document for name, document in distinct.items() if name in chosen],
    )


def _trained_weights(encoder: Encoder) -> dict[str, Tensor]:
    """A copy. Of LoRA only the factor that is zero before training, which says how large the update is."""
    return {
        name: parameter.detach().clone()
        for name, parameter in encoder.backbone.named_parameters()
        if parameter.requires_grad and ".lora_A" not in name
    }


@torch.no_grad()
def _mix(encoder: Encoder, original: dict[str, Tensor], share: float) -> None:
    for name, parameter in encoder.backbone.named_parameters():
        if name in original:
            parameter.lerp_(original[name], share)


def _metrics(evaluated: dict[str, float]) -> dict[str, float]:
    return {name: evaluated[f"eval_{name}"] for name in METRICS}


def _before(history: Sequence[dict[str, float]]) -> dict[str, float]:
    """What was judged before the first step; nothing in a run of before this was kept."""
    first = [each for each in history if each["step"] == 0 and f"eval_{METRICS[0]}" in each]
    return _metrics(first[0]) if first else {}


def _trainer_args(
    args: EncoderTrainingArguments, steps: int, evaluations: int, checkpoints: Path
) -> EncoderTrainingArguments:
    changed = copy.copy(args)  # not dataclasses.replace, see `training._trainer_args`
    changed.output_dir = str(checkpoints)
    changed.max_steps = steps
    if steps * args.warmup_steps < 1:  # the Trainer would make a whole step of it, at a rate of 0
        changed.warmup_steps = 0.0
    changed.per_device_train_batch_size = 1  # a batch of documents is one item
    changed.load_best_model_at_end = False
    changed.metric_for_best_model = None
    changed.eval_strategy = changed.save_strategy = "steps"
    changed.eval_steps = changed.save_steps = max(1, steps // evaluations)
    return changed
