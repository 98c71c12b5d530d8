"""A run's record while it goes on and ends, well or not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from ..encoder import Encoder
from ..errors import TrainingError, first_line
from ..machine import hardware, peak_memory, versions
from ..scoring import is_out_of_memory
from .checkpoint_folder import delete_checkpoints
from .packed_trainer import PackedTrainer
from .run_record import now, write_run


def begun_run(encoder: Encoder, seed: int, resumed_from: str | None) -> dict[str, Any]:
    """What every run's record begins with."""
    return {
        "status": "running",
        "started": now(),
        "encoder": encoder.config.to_dict(),
        "seed": seed,
        "parameters": count_parameters(encoder),
        "versions": versions(),
        "hardware": hardware(),
        "resumed_from": Path(resumed_from).name if resumed_from else None,
    }


@contextmanager
def recorded(
    run: dict[str, Any], trainer: PackedTrainer, checkpoints: Path, started: float
) -> Iterator[None]:
    """Completes the record at the end; that of a run which fails or is interrupted is kept beside its
    checkpoints.

    Args:
        run: What is known at the start, `data` and `parameters` among it.
        trainer: Whose run it is.
        checkpoints: Their folder.
        started: The run's `time.perf_counter()`.

    Raises:
        TrainingError: Memory ran out outside a pass; says what takes it.
    """
    try:
        with _no_cudnn_attention():
            yield
    except BaseException as error:
        run["status"] = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        run["error"] = str(error) or type(error).__name__
        _complete(run, trainer, started)
        if trainer.is_world_process_zero():
            with suppress(TrainingError):  # the error that ended the run is the one to show
                write_run(checkpoints, run)
        if is_out_of_memory(error):  # passes have an error of their own; this is the optimiser's state
            raise TrainingError(
                f"Out of memory: {first_line(error)}",
                where=f"{run['parameters']['trained']:,} parameters train, "
                f"max_tokens={trainer.options.max_tokens}",
                fix="train fewer parameters (tune=lora), or lower max_tokens",
            ) from error
        raise
    run["status"] = "finished"
    _complete(run, trainer, started)


def finish(run: dict[str, Any], trainer: PackedTrainer, checkpoints: Path, output_dir: Path | None) -> None:
    """Write a finished run's record beside its model, if that was saved, and delete its checkpoints unless
    they are to stay."""
    if trainer.is_world_process_zero():
        if output_dir is not None:
            write_run(output_dir, run)
        if not trainer.options.keep_checkpoints:
            with suppress(TrainingError):  # the model is saved; what is left of them harms nobody
                delete_checkpoints(checkpoints)
    trainer.accelerator.wait_for_everyone()


def count_parameters(encoder: Encoder) -> dict[str, int]:
    """Of all its parameters, and of those that train."""
    trained = sum(parameter.numel() for parameter in encoder.parameters() if parameter.requires_grad)
    return {"total": sum(parameter.numel() for parameter in encoder.parameters()), "trained": trained}


def _complete(run: dict[str, Any], trainer: PackedTrainer, started: float) -> None:
    work = trainer.throughput
    # Known at the end: lists are tokenised as they are drawn.
    for name in ("truncated", "no_room"):
        run["data"][name] = sum(getattr(each, name) for each in (trainer.train_items, trainer.judged_items))
    run |= {
        "steps": trainer.state.global_step,
        "tokens": work.tokens,
        "tokens_per_second": round(work.tokens_per_second, 1),
        "padding_avoided": round(work.padding_avoided, 4),
        "compiled_layers": trainer.compiled_layers is not None,
        "train_seconds": round(work.seconds, 1),
        "wall_seconds": round(time.perf_counter() - started, 1),
        "peak_memory": peak_memory(),
        "finished": now(),
    }


@contextmanager
def _no_cudnn_attention() -> Iterator[None]:
    """Training without cuDNN's SDPA, whose backward can give NaN on Hopper (pytorch issue 196678)."""
    if not torch.cuda.is_available():
        yield
        return
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
