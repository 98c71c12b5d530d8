"""Where a run keeps its checkpoints, which of them can be resumed, and how they go away."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME

from ..checkpoint import CONFIG_FILE
from ..errors import ConfigError, TrainingError
from .arguments import EncoderTrainingArguments
from .run_record import RUN_FILE

_CHECKPOINT = re.compile(r"checkpoint-\d+")


def checkpoint_folder(output_dir: str | Path) -> Path:
    """`<output_dir>.checkpoints`, beside the folder that the run will write."""
    output_dir = Path(output_dir).absolute()  # "." has no name
    return output_dir.with_name(output_dir.name + ".checkpoints")


def last_checkpoint(folder: str | Path) -> str | None:
    """The newest whole checkpoint. One that a kill cut short has no trainer state, which is written last."""
    whole = []
    for path in Path(folder).glob("checkpoint-*"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            step = json.loads((path / TRAINER_STATE_NAME).read_text(encoding="utf-8"))["global_step"]
            whole.append((step, os.fspath(path)))
    return max(whole)[1] if whole else None


def begin(
    args: EncoderTrainingArguments, output_dir: Path, *, resume: bool, overwrite: bool
) -> tuple[Path, str | None]:
    """The folder for a run's checkpoints, ready, and the checkpoint to go on from.

    Args:
        args: Of the run.
        output_dir: The folder that the run will write.
        resume: Go on from the last whole checkpoint.
        overwrite: Replace a model in `output_dir`, and delete the checkpoints of an interrupted run.

    Raises:
        ConfigError: There is an earlier run, and nothing says what to do with it.
        TrainingError: There is nothing to resume, or the folder can't be written.
    """
    checkpoints = checkpoint_folder(output_dir)
    found = last_checkpoint(checkpoints)
    if not resume and not overwrite:
        _refuse_earlier_run(output_dir, checkpoints if found else None)
    if resume and found is None:
        raise TrainingError(
            "There is no checkpoint to resume",
            where=str(checkpoints),
            fix="start without --resume (resume=True)",
        )
    with args.main_process_first(local=False):
        if not resume and args.process_index == 0:
            delete_checkpoints(checkpoints)
        make_folder(checkpoints)
    return checkpoints, found if resume else None


def _refuse_earlier_run(output_dir: Path, checkpoints: Path | None) -> None:
    if checkpoints is not None:
        raise ConfigError(
            "An interrupted run left its checkpoints",
            where=str(checkpoints),
            fix="go on from them: --resume (resume=True), or start again: --overwrite (overwrite=True)",
        )
    if (output_dir / CONFIG_FILE).is_file():
        raise ConfigError(
            "The output folder holds a model",
            where=str(output_dir),
            fix="give another folder, or replace it: --overwrite (overwrite=True)",
        )


def make_folder(folder: Path) -> None:
    """Make the folder of checkpoints.

    Raises:
        TrainingError: It can't be made.
    """
    with _refused(folder):
        folder.mkdir(parents=True, exist_ok=True)


def delete_checkpoints(folder: Path) -> None:
    """Delete checkpoints and the record of an unfinished run, and the folder unless it holds other files.

    Raises:
        TrainingError: They can't be deleted.
    """
    if not folder.is_dir():
        return
    with _refused(folder):
        for path in folder.iterdir():
            if _CHECKPOINT.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
        (folder / RUN_FILE).unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()


@contextlib.contextmanager
def _refused(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"The folder for checkpoints can't be written: {error.strerror or error}",
            where=str(folder),
            fix="give an output folder that may be written",
        ) from error
