"""A study's arms as `gemma-encoder train` would read them: what trials run, and the command for each."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, GemmaEncoderError
from .auto_attention import in_a_line, resolved
from .common import encoder_config, is_encoder_folder, note
from .options import OPTIONS
from .parsing import parse
from .train import training_arguments
from .train_data import rows_to_learn

if TYPE_CHECKING:
    from ..study.plan import Arm, StudyPlan
    from ..study.trial import Recipe
    from ..tasks import TaskData

FILE_TASK = "file"
"""What a study calls the task of a file of the user's own."""

_OF_THE_BACKBONE = ("attention", "window", "bidirectional_layers")
_OF_THE_STUDY = ("output", "task", "seed", "resume", "overwrite", "dry_run", "new_head", "train_lists")
_LAST_WEIGHTS = {"args.save_strategy": "no", "args.load_best_model_at_end": False}
"""What a trial does where its options don't say: it judges the weights at the end, and saves nothing."""


class Recipes:
    """Makes recipes of arms; reads each task's data once.

    Args:
        plan: The study's plan.
        work: Where trials may write meanwhile.
    """

    def __init__(self, plan: StudyPlan, work: Path) -> None:
        self.plan, self.work = plan, work
        self._data: dict[str, TaskData] = {}

    def __call__(self, arm: Arm, task: str, seed: int, learning_rate: float | None) -> Recipe:
        """The recipe of a trial.

        Raises:
            ConfigError: An option isn't one of train's, or has a value that is not allowed.
            DataError: The task's data can't be read.
        """
        from ..study.trial import Recipe

        words = train_words(self.plan, arm, task, seed, learning_rate)
        output = f"--output={self.work / str(seed)}"
        train_options, lists, _, training, encoder_options = read_words([*words, output])
        data = self._read(task, replace(train_options, max_train_rows=None), training)
        named = "" if task == FILE_TASK else task
        of_task, most_rows = data.task, train_options.max_train_rows
        encoder_options, choice = resolved(encoder_options, train_options.model, data, most_rows)
        config = encoder_config(
            encoder_options, named, of_task.template, of_task.problem_type, of_task.labels
        )
        command = words
        if is_encoder_folder(train_options.model):
            # `train` would keep the folder's pooling, as a trial does with `attention: auto` only.
            keeps = choice is not None or "pooling" in encoder_options.given
            command = [*words, "--new_head", *([] if keeps else [f"--pooling.kind={config.pooling.kind}"])]
        return Recipe(
            decoder=train_options.model,
            config=config,
            args=training_arguments(train_options, training, lists),
            data=data,
            data_name=task,
            max_train_rows=most_rows,
            command=shlex.join(["gemma-encoder", "train", *command, "--output", "FOLDER"]),
            remark=in_a_line(choice) if choice else "",
        )

    def check(self, arms: list[Arm]) -> None:
        """Find what can't be used before anything runs; tell what attention `auto` stands for.

        Raises:
            ConfigError: Names the arm: an option, the decoder or folder, or the task can't be used.
        """
        started: set[tuple[Any, ...]] = set()
        for arm in arms:
            for task in self.plan.tasks:
                with _named(arm, task):
                    _refuse_ranking(task)
                    recipe = self(arm, task, 0, None)
                    _refuse_unfit(recipe)
                    start = (recipe.decoder, *(getattr(recipe.config, name) for name in _OF_THE_BACKBONE))
                    if start not in started:
                        _refuse_start(recipe)
                        started.add(start)
                if recipe.remark:
                    note(f"{task}, {arm.name}: {recipe.remark}")

    def _read(self, task: str, options: Any, training: Any) -> TaskData:
        if task not in self._data:
            # Rows are drawn from the same data whatever the seed; a file's own part is held out with seed 0.
            self._data[task] = rows_to_learn(options, replace(training, seed=0), None)
        return self._data[task]


def check_options(plan: StudyPlan) -> None:
    """Find options that `train` doesn't have, or values that they can't have, without reading any data.

    Raises:
        ConfigError: Names the arm.
    """
    for arm in plan.arms_to_check():
        for task in plan.tasks:
            with _named(arm, task):
                read_words([*train_words(plan, arm, task, 0, None), "--output=FOLDER"])


@contextmanager
def _named(arm: Arm, task: str) -> Iterator[None]:
    """Say of an error which arm it is of."""
    try:
        yield
    except (GemmaEncoderError, argparse.ArgumentError) as error:
        raise ConfigError(f"The arm {arm.name} can't be made for {task}: {error}") from error


def _refuse_ranking(task: str) -> None:
    from ..tasks import get_task

    if task != FILE_TASK and get_task(task).problem_type == "ranking":
        raise ConfigError(
            "A study trains on rows, and this is a ranking task", fix="leave it out of tasks, use `train`"
        )


def _refuse_unfit(recipe: Recipe) -> None:
    """Refuse options that every trial of a recipe would fail by."""
    args = recipe.args
    if args.layout != "padded" and (args.padding_side, args.padded_positions) != ("right", "text"):
        raise ConfigError(
            "padding_side and padded_positions do nothing in the packed layout, which has no padding",
            fix="leave them out, or add layout: padded",
        )


def _refuse_start(recipe: Recipe) -> None:
    """Refuse a decoder that isn't there, and a folder whose backbone is another than was asked for."""
    from ..checkpoint import saved_config
    from ..decoders import check_decoder

    if not is_encoder_folder(recipe.decoder):
        check_decoder(recipe.decoder)
        return
    config = saved_config(recipe.decoder)
    for name in _OF_THE_BACKBONE:
        kept, asked = getattr(config, name), getattr(recipe.config, name)
        if asked != kept:
            raise ConfigError(
                f"The encoder's {name} is {kept!r} and can't be made {asked!r}",
                where=recipe.decoder,
                fix="ask for what the folder has (attention: auto does), or begin with the decoder",
            )


def train_words(plan: StudyPlan, arm: Arm, task: str, seed: int, learning_rate: float | None) -> list[str]:
    """A trial as words behind `gemma-encoder train`, but for the output.

    Raises:
        ConfigError: An option is not for arms to set.
    """
    changed = dict(arm.options)
    if learning_rate is not None:
        changed["learning_rate"] = learning_rate
    options = {**plan.base, **changed}
    for name in _OF_THE_STUDY:
        if name in options:
            raise ConfigError(f"{name} is set by the study", fix=f"leave {name} out of base and axes")
    defaults = {"args.eval_strategy": "no" if plan.pruning == "none" else "epoch", **_LAST_WEIGHTS}
    defaults = {name: value for name, value in defaults.items() if name not in options}
    return _words({**options, **_of_task(task), "seed": seed, **defaults})


def read_words(words: list[str]) -> tuple[Any, ...]:
    """The option classes of `train`."""
    return parse("gemma-encoder train", "", OPTIONS["train"], words)


def _of_task(task: str) -> dict[str, str]:
    return {} if task == FILE_TASK else {"task": task}


def _words(options: Mapping[str, Any]) -> list[str]:
    """Options as words of a command line; those without a value are left out."""
    return [f"--{name}={_spelled(value)}" for name, value in options.items() if value is not None]


def _spelled(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(map(str, value))
    return json.dumps(value) if isinstance(value, dict) else str(value)
