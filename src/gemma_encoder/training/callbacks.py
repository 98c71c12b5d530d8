"""What a person sees while training: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .collation import TrainingItems


@dataclass
class Throughput:
    """Work done so far.

    Attributes:
        tokens: Real tokens trained on.
        slots: Tokens the same batches would have had, padded to their longest row.
        seconds: Time in forward and backward passes, until the gradient's norm is known.
    """

    tokens: int = 0
    slots: int = 0
    seconds: float = 0.0

    def add(self, tokens: int, slots: int, seconds: float) -> None:
        """Count one batch."""
        self.tokens += int(tokens)
        self.slots += int(slots)
        self.seconds += seconds

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second of forward and backward."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def padding_avoided(self) -> float:
        """Fraction of the padded batches' tokens that are padding and were not computed."""
        return 1 - self.tokens / self.slots if self.slots else 0.0


def seconds_since(started: float) -> float:
    """Time since a `time.perf_counter()`, until a GPU has done what it was given, which it does in its own
    time."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter() - started


class ProgressLines(TrainerCallback):
    """Tokens/s, padding avoided, loss, time left: a bar on a terminal, lines in a log."""

    def __init__(self, throughput: Throughput) -> None:
        self.throughput = throughput
        self.bar: tqdm | None = None
        self.began, self.first_step = 0.0, 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the bar; it is silent where standard error is no terminal."""
        self.began, self.first_step = time.perf_counter(), state.global_step
        if state.is_world_process_zero:
            self.bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                unit="step",
                disable=not sys.stderr.isatty(),
                leave=False,
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Move the bar."""
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Say how it goes."""
        if self.bar is None or not logs:
            return
        work = self.throughput
        speed = f"{work.tokens_per_second:.0f} tokens/s, {work.padding_avoided:.0%} padding avoided"
        scores = {
            name.removeprefix("eval_"): value for name, value in logs.items() if name.startswith("eval_")
        }
        if scores:
            shown = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
            self.say(f"step {state.global_step}/{state.max_steps}, epoch {state.epoch or 0:.2f}: {shown}")
        elif "loss" in logs:
            self.bar.set_postfix_str(f"loss {logs['loss']:.3f}, {speed}")
            if self.bar.disable:
                left = f"{tqdm.format_interval(self._seconds_left(state))} left"
                self.say(
                    f"step {state.global_step}/{state.max_steps}: loss {logs['loss']:.3f}, {speed}, {left}"
                )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End the bar."""
        self.close()

    def close(self) -> None:
        """End the bar, also where training ended with an error."""
        if self.bar is not None:
            self.bar.close()

    def _seconds_left(self, state: TrainerState) -> float:
        """By the steps of this process, evaluations and checkpoints included."""
        per_step = (time.perf_counter() - self.began) / max(1, state.global_step - self.first_step)
        return per_step * (state.max_steps - state.global_step)

    def say(self, line: str) -> None:
        """Write a line, above the bar if there is one."""
        tqdm.write(line, file=sys.stderr)
        sys.stderr.flush()


class NewEpoch(TrainerCallback):
    """Tells the training items which epoch begins, also where a run goes on in the middle of it."""

    def __init__(self, items: TrainingItems) -> None:
        self.items = items

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set it."""
        self.items.set_epoch(int((state.epoch or 0.0) + 1e-6))


class SaveByTime(TrainerCallback):
    """Saves when so many minutes have passed since the last save. For one process: clocks differ."""

    def __init__(self, minutes: float) -> None:
        self.seconds = 60 * minutes
        self._saved = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self._saved = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ask for a checkpoint when it is time."""
        control.should_save = control.should_save or time.monotonic() - self._saved >= self.seconds

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start again."""
        self._saved = time.monotonic()


class WeightAverage(TrainerCallback):
    """Averages the weights of the last steps (Izmailov et al., arXiv 1803.05407), and puts the mean in their
    place at the end.

    Args:
        trained: Gives the parameters that train, by name.
        share: Of all steps, at the end.

    Attributes:
        mean: So far, by name; empty before the first step that counts.
        steps: How many it is the mean of.
    """

    def __init__(self, trained: Callable[[], dict[str, nn.Parameter]], share: float) -> None:
        self.trained, self.share = trained, share
        self.mean: dict[str, Tensor] = {}
        self.steps = 0

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count the step's weights."""
        if state.global_step <= (1 - self.share) * state.max_steps:
            return
        self.steps += 1
        for name, parameter in self.trained().items():
            if name in self.mean:
                self.mean[name].lerp_(parameter.detach(), 1 / self.steps)
            else:
                self.mean[name] = parameter.detach().clone()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take the mean."""
        for name, parameter in self.trained().items():
            if name in self.mean:
                parameter.data.copy_(self.mean[name])
