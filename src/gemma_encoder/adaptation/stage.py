"""The adaptation stage: a backbone whose attention was switched learns plain text before any task."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class AdaptationPlan:
    """What is learnt, and how much of it.

    Attributes:
        objective: `mntp` or `mlm`; see `masking.Masking`.
        tokens: Tokens to train on; a smaller corpus is seen several times, with other masks.
        batch_tokens: Tokens of an optimiser step, about.
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

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return math.ceil(self.tokens / self.batch_tokens)


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
            the plan.
        resume: Go on from the last whole checkpoint; the result is that of an uninterrupted run.
        overwrite: Replace a model in `output_dir`, and delete the checkpoints of an interrupted run.

    Raises:
        ConfigError: The options don't go together, or there is an earlier run in `output_dir`.
        DataError: The corpus has a single document.
        TrainingError: The loss is not finite, a checkpoint can't be written, or there is nothing to resume.
        CheckpointError: The result can't be saved.
    """
    check_adaptation(encoder, args)
    output_dir = Path(str(args.output_dir)).absolute()
    head = language_head(encoder)
    masking = Masking(plan.objective, plan.mask_rate, mask_token(encoder.tokenizer, plan.mask_token))
    learnt, judged = hold_out(corpus.documents, args.seed)
    checkpoints, found = begin(args, output_dir, resume=resume, overwrite=overwrite)
    started = time.perf_counter()
    set_seed(args.seed)
    if args.tune == "lora":
        add_lora(encoder, args)
    set_trainable(encoder, args.tune, head=False)
    special = frozenset(encoder.tokenizer.all_special_ids)
    longest = max(map(len, corpus.documents))
    train_items = MaskedDocuments(
        learnt, masking, special, batch_tokens=max(plan.batch_tokens, longest), seed=args.seed
    )
    judged_at_once = max(min(args.eval_max_tokens, args.max_tokens), longest)
    heldout = MaskedDocuments(judged, masking, special, batch_tokens=judged_at_once, seed=args.seed)
    trainer_args = _trainer_args(args, plan, checkpoints)
    run = {
        **begun_run(encoder, args.seed, found),
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
            "heldout_documents": len(judged),
        },
    }
    trainer = MaskedTrainer(encoder, trainer_args, head, train_items, heldout)
    original = _trained_weights(encoder) if plan.original_share else {}
    with recorded(run, trainer, checkpoints, started):
        before = _metrics(trainer.evaluate()) if found is None else {}
        trainer.train(resume_from_checkpoint=found)
        _mix(encoder, original, plan.original_share)
        metrics = _metrics(trainer.evaluate())
        encoder.eval()
        if trainer.is_world_process_zero():
            encoder.save_pretrained(output_dir, merge_adapter=args.merge_adapter)
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
    if args.attention_ramp and encoder.config.attention == "causal":
        raise ConfigError("attention_ramp is for bidirectional attention", fix="leave it out")
    check_weights(encoder, args)


def hold_out(documents: Sequence[np.ndarray], seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Documents to learn from and to judge by: a tenth of the tokens, at most `HELDOUT_TOKENS`; one at least.

    Raises:
        DataError: There are fewer than two documents.
    """
    if len(documents) < 2:
        raise DataError(
            "The corpus is a single document, and one is held out to judge by", fix="give more text"
        )
    order = np.random.default_rng(seed).permutation(len(documents))
    lengths = np.array([len(documents[number]) for number in order])
    wanted = min(HELDOUT_TOKENS, HELDOUT_SHARE * lengths.sum())
    count = min(int(np.searchsorted(lengths.cumsum(), wanted)) + 1, len(documents) - 1)
    chosen = set(order[:count].tolist())
    return (
        [document for number, document in enumerate(documents) if number not in chosen],
        [document for number, document in enumerate(documents) if number in chosen],
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


def _trainer_args(
    args: EncoderTrainingArguments, plan: AdaptationPlan, checkpoints: Path
) -> EncoderTrainingArguments:
    changed = copy.copy(args)  # not dataclasses.replace, see `training._trainer_args`
    changed.output_dir = str(checkpoints)
    changed.max_steps = plan.steps
    changed.per_device_train_batch_size = 1  # a batch of documents is one item
    changed.load_best_model_at_end = False
    changed.metric_for_best_model = None
    changed.eval_strategy = changed.save_strategy = "steps"
    changed.eval_steps = changed.save_steps = max(1, plan.steps // plan.evaluations)
    return changed
