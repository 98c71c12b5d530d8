"""transformers' Trainer, with batches cut into packed passes by token budget; what a pass computes is a
subclass's."""

from __future__ import annotations

import contextlib
import json
import math
import pickle
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import SaveStrategy

from ..compiling import CompiledLayers, compiled_layers, pays
from ..encoder import Encoder
from ..errors import CheckpointError, ConfigError, TrainingError, first_line
from ..memory import give_back_freed_memory
from ..packing import plan_batches
from ..scoring import is_out_of_memory, out_of_memory
from ..tasks.base import by_group
from .arguments import EncoderTrainingArguments
from .callbacks import NewEpoch, ProgressLines, SaveByTime, Throughput, WeightAverage
from .collation import TrainingItems
from .parameters import parameter_groups
from .resuming import check_same

WEIGHTS_FILE = "model.safetensors"
AVERAGE_FILE = "average.safetensors"
THROUGHPUT_FILE = "throughput.json"

LOOK_AHEAD_AT = 3
"""After so many steps it is known how many tokens a step has."""
WORTH_COMPILING = 1e14
"""Floating-point operations left to train from which compiled layers pay; minutes of two cores."""


class Trainable(nn.Module):
    """An encoder as the Trainer sees it: without our frozen `config`, which the Trainer would write to."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def activation_checkpointing_enable(self, **options: Any) -> None:
        self.encoder.activation_checkpointing_enable(**options)

    gradient_checkpointing_enable = activation_checkpointing_enable  # its name before transformers 5.22


@dataclass
class _Step:
    """What an optimiser step has computed so far.

    Attributes:
        began: `time.perf_counter()` when its batches were there.
        tokens: Real tokens.
        slots: Tokens with the batches' padding.
        losses: Of each pass, with the numbers of its rows; on a GPU perhaps not computed yet.
    """

    began: float = field(default_factory=time.perf_counter)
    tokens: int = 0
    slots: int = 0
    losses: list[tuple[Tensor, list[int]]] = field(default_factory=list)


class PackedTrainer(Trainer):
    """Trains an encoder in packed passes.

    Args:
        model: The encoder and what of it a pass computes.
        args: Options. `output_dir` holds the checkpoints.
        collator: Items to batches with `input_ids` and `attention_mask` `[B, S]`, padded on the right,
            `labels` and `rows` `[B, ...]`, and `lists` `[B]`: rows with the same number stay in one pass.
        train_items: What to learn from.
        validation_items: What to judge by.
    """

    def __init__(
        self,
        model: Trainable,
        args: EncoderTrainingArguments,
        collator: Callable[..., dict[str, Tensor]],
        train_items: TrainingItems,
        validation_items: TrainingItems,
    ) -> None:
        self.encoder, self.throughput = model.encoder, Throughput()
        self.train_items, self.judged_items = train_items, validation_items
        try:
            super().__init__(
                model=model,
                args=args,
                data_collator=collator,
                train_dataset=train_items,
                eval_dataset=validation_items,
            )
        except (RuntimeError, ImportError) as error:  # report_to names something that isn't installed
            raise ConfigError(
                f"The run can't be set up: {first_line(error)}",
                fix="install it, or leave report_to out",
            ) from error
        self.options = args
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        self.progress = ProgressLines(self.throughput)
        self.add_callback(self.progress)
        self.add_callback(NewEpoch(train_items))
        if args.save_minutes and args.save_strategy != SaveStrategy.NO and args.world_size == 1:
            self.add_callback(SaveByTime(args.save_minutes))
        self.average = WeightAverage(self._trained, args.average_last)
        if args.average_last:
            self.add_callback(self.average)
        self.compiled_layers: CompiledLayers | None = None
        self._settings: dict[str, str] = {}  # what must be the same for a run to go on; a subclass's
        self._step = _Step()

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.train`; the progress bar ends also when an error does.

        What passes took and freed goes back to the system: saving maps all weights into memory, and a merged
        adapter is a copy of the layers.
        """
        try:
            done = super().train(*args, **kwargs)
        finally:
            self.progress.close()
        give_back_freed_memory()
        return done

    # ------------------------------------------------------------------------------------------- one step

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The Trainer's, but batches stay on the CPU: they are cut into passes and laid out there, without
        waiting for a GPU at each step of that."""
        loader: Any = super().get_train_dataloader()
        loader.device = None
        return loader

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward over one batch, in as many passes as the token budget asks for.

        Each pass adds `sum of its losses / losses of the whole batch` (all accumulated batches counted), so
        the gradient is that of the whole batch however it is cut.

        Raises:
            ConfigError: A pass doesn't fit into memory; names the budget.
        """
        self._set_train_mode(model)
        inputs["lengths"] = lengths = inputs["attention_mask"].sum(dim=1).tolist()
        members = by_group(inputs["lists"].tolist())
        total = num_items_in_batch or self._count_losses(inputs)
        plan = plan_batches([sum(lengths[row] for row in each) for each in members], self.options.max_tokens)
        loss_of_batch = torch.zeros((), device=self.encoder.device)
        for number, chosen in enumerate(plan, start=1):
            batch = [row for each in chosen for row in members[each]]
            batch.sort(key=lambda row: -lengths[row])  # attention takes neighbours of about a length together
            try:
                with self._layers(), self._future():
                    loss = self._backward(model, inputs, batch, total, last=number == len(plan))
            except (RuntimeError, MemoryError) as error:
                if is_out_of_memory(error):
                    raise out_of_memory(
                        [[0] * lengths[row] for row in batch], self.options.max_tokens
                    ) from error
                raise
            loss_of_batch += loss
            self._step.losses.append((loss, inputs["rows"][batch].tolist()))
        self._step.tokens += sum(lengths)
        self._step.slots += inputs["attention_mask"].numel()
        return loss_of_batch

    def _count_losses(self, batch: dict[str, Any]) -> int:
        """How many losses the loss of a batch is the mean of."""
        raise NotImplementedError

    def _loss(self, output: Tensor, inputs: dict[str, Any], rows: list[int], total: Any) -> Tensor:
        """The sum of these rows' losses by what the model gave for them, divided by `total`."""
        raise NotImplementedError

    def _layers(self) -> contextlib.AbstractContextManager[None]:
        """Stock layers, or compiled ones if that is asked for or pays for what is left to train."""
        if self.compiled_layers is None and self._compiles():
            self.compiled_layers = compiled_layers(self.encoder.backbone)
        return self.compiled_layers.in_use() if self.compiled_layers else contextlib.nullcontext()

    @contextlib.contextmanager
    def _future(self) -> Iterator[None]:
        """What later tokens count at this step, see `attention_ramp`; outside, what they count in the end."""
        ramp = self.options.attention_ramp * self.state.max_steps
        self.encoder.future_weight = min(1.0, self.state.global_step / ramp) if ramp else 1.0
        try:
            yield
        finally:
            self.encoder.future_weight = 1.0

    def _compiles(self) -> bool:
        wanted, done = self.options.compile_layers, self.state.global_step
        if wanted is None:
            if done < LOOK_AHEAD_AT:
                return False
            left = self.throughput.tokens / done * (self.state.max_steps - done)
            wanted = self.encoder.layout == "packed" and pays(
                self.encoder.backbone, left, WORTH_COMPILING, backward=True
            )
        if wanted:
            self.progress.say("compiling the layers, up to half a minute the first time")
        return wanted

    def _backward(
        self, model: nn.Module, inputs: dict[str, Any], batch: list[int], total: Any, *, last: bool
    ) -> Tensor:
        """One pass over these rows: adds to the gradient, gives the loss."""
        with self._synchronised(model, last):
            with self.compute_loss_context_manager():
                loss = self._loss(self._output(model, inputs, batch), inputs, batch, total)
            self.accelerator.backward(loss)
        return loss.detach()

    def _output(self, model: nn.Module, inputs: dict[str, Any], rows: list[int]) -> Tensor:
        longest = max(inputs["lengths"][row] for row in rows)  # padding is on the right
        output: Tensor = model(inputs["input_ids"][rows, :longest], inputs["attention_mask"][rows, :longest])
        return output

    def _synchronised(self, model: nn.Module, last: bool) -> Any:
        """Gradients of several processes are summed once, in the last backward pass."""
        return contextlib.nullcontext() if last else self.accelerator.no_sync(model)

    def _set_train_mode(self, model: nn.Module) -> None:
        model.train()
        if self.options.tune == "head":
            self.encoder.backbone.eval()  # nothing in it learns: no dropout, no graph

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The gradient's norm, which the Trainer asks for before every optimiser step.

        Here a GPU is waited for, once in a step. A finite loss can have a gradient that isn't; one step with
        it and the next checkpoint is worthless.

        Raises:
            TrainingError: A loss or the norm is not finite; names the rows. (In fp16 the gradient scaler
                skips a step without a finite gradient.)
        """
        norm = super()._get_grad_norm(model, grad_norm)
        step = self._step
        losses, rows = zip(*step.losses, strict=True)
        for value, of in zip(torch.stack(losses).tolist(), rows, strict=True):
            if not math.isfinite(value):
                raise self._not_finite("loss", of, value)
        if norm is not None and not self.args.fp16 and not math.isfinite(float(norm)):
            raise self._not_finite("gradient", [row for of in rows for row in of], float(norm))
        self.throughput.add(step.tokens, step.slots, time.perf_counter() - step.began)
        return norm

    def _not_finite(self, what: str, rows: list[int], value: float) -> TrainingError:
        shown = ", ".join(map(str, rows[:20])) + (", ..." if len(rows) > 20 else "")
        return TrainingError(
            f"The {what} became {value} at step {self.state.global_step + 1}",
            where=f"rows {shown} of the training data",
            fix="start again with a lower learning_rate, or mend those rows",
        )

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> int:
        """Losses in one optimiser step on this device, which begins here; the loss is their mean."""
        self._step = _Step()
        return sum(self._count_losses(batch) for batch in batch_samples)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimiser of `args.optim` over `parameter_groups`.

        Raises:
            ConfigError: It doesn't take the options.
        """
        if self.optimizer is None:
            groups = parameter_groups(self.encoder, self.options)
            with _refused_options("optim", self.args.optim):
                kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.encoder)  # type: ignore[arg-type]
                self.optimizer = kind(groups, **options)
        return self.optimizer

    def create_scheduler(self, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.create_scheduler`.

        Raises:
            ConfigError: The schedule doesn't take the options.
        """
        with _refused_options("lr_scheduler_type", self.args.lr_scheduler_type):
            return super().create_scheduler(*args, **kwargs)

    # ---------------------------------------------------------------------------------------- checkpoints

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Write what training changed. Frozen tensors are the decoder's own and stay out of checkpoints."""
        folder = Path(output_dir or self.options.output_dir or ".")
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: parameter.detach().contiguous() for name, parameter in self._trained().items()}
        save_file(state, folder / WEIGHTS_FILE, metadata=self._settings)
        if self.average.mean:
            save_file(self.average.mean, folder / AVERAGE_FILE, metadata={"steps": str(self.average.steps)})
        (folder / THROUGHPUT_FILE).write_text(json.dumps(asdict(self.throughput)), encoding="utf-8")

    def _trained(self) -> dict[str, nn.Parameter]:
        return {
            name: parameter for name, parameter in self.encoder.named_parameters() if parameter.requires_grad
        }

    def _load_trained(self, folder: str | Path) -> None:
        path = Path(folder) / WEIGHTS_FILE
        try:
            state = load_file(path, device=str(self.encoder.device))
        except (OSError, SafetensorError) as error:
            raise _damaged(error, str(path)) from error
        trained = self._trained()
        if {name: tensor.shape for name, tensor in state.items()} != {
            name: parameter.shape for name, parameter in trained.items()
        }:
            raise CheckpointError(
                "The checkpoint was written with other options (what is tuned, LoRA rank, pooler or head)",
                where=str(path),
                fix="resume with the options of that run, or train into a new folder",
            )
        self.encoder.load_state_dict(state, strict=False)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Weights and counters. Refuses a checkpoint that was written under other settings."""
        weights = Path(resume_from_checkpoint) / WEIGHTS_FILE
        with contextlib.suppress(OSError, SafetensorError), safe_open(weights, "pt") as file:
            check_same(file.metadata() or {}, self._settings, resume_from_checkpoint)
        self._load_trained(resume_from_checkpoint)
        self._load_average(Path(resume_from_checkpoint) / AVERAGE_FILE)
        with contextlib.suppress(OSError, ValueError):  # a run is no worse for a gap in its statistics
            done = json.loads((Path(resume_from_checkpoint) / THROUGHPUT_FILE).read_text(encoding="utf-8"))
            self.throughput.add(**done)

    def _load_average(self, path: Path) -> None:
        if not path.is_file():  # no step had counted yet
            return
        try:
            with safe_open(path, "pt") as file:
                self.average.steps = int((file.metadata() or {})["steps"])
            self.average.mean = load_file(path, device=str(self.encoder.device))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise _damaged(error, str(path)) from error

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
            raise _damaged(error, str(checkpoint)) from error

    def _load_best_model(self) -> None:
        """By its step, not by the path it had: the folder may have been moved."""
        self._load_trained(Path(str(self.options.output_dir)) / f"checkpoint-{self.state.best_global_step}")

    def had_stopped_early(self, checkpoint: str) -> bool:
        """Whether a checkpoint ends a run whose patience was used up; the Trainer would train on."""
        state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
        saved = (state.stateful_callbacks or {}).get(EarlyStoppingCallback.__name__, {})
        counter = saved.get("attributes", {}).get("early_stopping_patience_counter", 0)
        patience = self.options.early_stopping_patience
        return patience is not None and counter >= patience

    def finish_from(self, checkpoint: str) -> None:
        """Take a checkpoint for the end of training, without a step."""
        self._load_from_checkpoint(checkpoint)
        self.state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
        if self.options.load_best_model_at_end and self.state.best_global_step:
            self._load_best_model()

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint; when that fails its remains are deleted and earlier ones stay."""
        folder = Path(str(self.options.output_dir)) / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, SafetensorError, RuntimeError) as error:  # RuntimeError: torch.save, disk full
            shutil.rmtree(folder, ignore_errors=True)
            reason = getattr(error, "strerror", None) or first_line(error)
            raise TrainingError(
                f"The checkpoint can't be written: {reason}",
                where=str(folder),
                fix="free disk space or permit writing, then --resume; earlier checkpoints are intact",
            ) from error


@contextlib.contextmanager
def _refused_options(name: str, value: Any) -> Iterator[None]:
    """Bad values that only their user notices, as errors of the options."""
    try:
        yield
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(
            f"{name} {getattr(value, 'value', value)} can't be used: {first_line(error)}",
            fix="see transformers.TrainingArguments",
        ) from error


def _damaged(error: Exception, where: str) -> CheckpointError:
    return CheckpointError(
        f"The checkpoint can't be read: {first_line(error)}",
        where=where,
        fix="delete this checkpoint and resume again",
    )
