"""What several verbs need: the terminal, loading an encoder, files written whole."""

from __future__ import annotations

import gc
import os
import sys
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, ConfigError
from ..memory import collector_paused

if TYPE_CHECKING:
    import torch

    from ..attention import AttentionPolicy
    from ..dropout import DropoutConfig
    from ..encoder import Encoder
    from ..encoder_config import EncoderConfig
    from ..losses import ProblemType
    from .options import EncoderOptions


def note(message: str) -> None:
    """Tell the user something beside the results, on stderr."""
    print(message, file=sys.stderr, flush=True)


def counted(number: int, noun: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def print_table(title: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Print rows of the same keys: a drawn table on a terminal, aligned plain lines in a log."""
    rows = [{name: _text(value) for name, value in row.items()} for row in rows]
    if not rows:
        return
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(title=title, title_justify="left")
        for name in rows[0]:
            table.add_column(name)
        for row in rows:
            table.add_row(*row.values())
        Console().print(table)
        return
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in rows[0]}
    print(title)
    for row in ({name: name for name in widths}, *rows):
        print("  " + "  ".join(row[name].ljust(width) for name, width in widths.items()).rstrip())


def print_facts(title: str, facts: Mapping[str, Any]) -> None:
    """Print names and values under a title, aligned."""
    width = max((len(name) for name in facts), default=0)
    print(title)
    for name, value in facts.items():
        print(f"  {name.ljust(width)}  {_text(value)}".rstrip())


class Progress:
    """What is done so far on stderr: a line that is written over on a terminal, else one every half minute.

    Args:
        noun: What is counted, in the singular.
        before: How much was done before the start.
        hidden: Write no line over, since stdout shows results.
    """

    def __init__(self, noun: str, before: int, *, hidden: bool = False) -> None:
        self.noun, self.before = noun, before
        self.terminal = sys.stderr.isatty() and not hidden
        self.start = self.last = time.monotonic()

    def show(self, done: int) -> None:
        """Tell how much is done."""
        now = time.monotonic()
        rate = (done - self.before) / max(now - self.start, 1e-9)
        message = f"{counted(done, self.noun)}, {rate:,.1f} {self.noun}s/s"
        if self.terminal:
            print(f"\r\x1b[K{message}", end="", file=sys.stderr, flush=True)
        elif now - self.last > 30:
            note(message)
            self.last = now

    def close(self) -> None:
        """Take the line away."""
        if self.terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def quiet_libraries() -> None:
    """Keep other libraries' progress bars and advice out of our output; their errors still come through."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for advice in (DeprecationWarning, FutureWarning):  # meant for developers
        warnings.simplefilter("ignore", advice)
    warnings.showwarning = lambda message, *_, **__: note(f"warning: {message}")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")  # who scores must not wait for its import
    if "datasets" in sys.modules:
        sys.modules["datasets"].disable_progress_bars()
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def is_encoder_folder(model: str) -> bool:
    """Whether a `--model` is a folder that this program wrote."""
    return (Path(model) / "gemma_encoder.json").is_file()


def encoder_config(
    options: EncoderOptions, task: str, template: str, problem_type: ProblemType, labels: Sequence[str]
) -> EncoderConfig:
    """Options as an encoder's configuration; what they leave open is `template` and the task's recipe.

    Raises:
        ConfigError: An option has a value that is not allowed, or attention is `auto` still.
    """
    from ..encoder_config import EncoderConfig
    from ..heads import HeadConfig
    from ..pooling import PoolingConfig
    from ..text import TextConfig
    from ..training.recipes import recipe_for

    recipe = recipe_for(task)
    return EncoderConfig(
        attention=settled_attention(options),
        window=options.window,
        bidirectional_layers=options.bidirectional_layers,
        pooling=PoolingConfig(**asdict(options.pooling)),
        head=HeadConfig(**asdict(options.head)),
        dropout=dropout_config(options) or recipe.dropout,
        text=TextConfig(
            template=options.template or template,
            max_length=recipe.max_length if options.max_length is None else options.max_length,
            bos=options.bos,
            eos=options.eos,
        ),
        problem_type=problem_type,
        labels=tuple(labels),
    )


def settled_attention(options: EncoderOptions) -> AttentionPolicy:
    """The attention that was asked for.

    Raises:
        ConfigError: It is `auto`, where the number of training rows isn't known.
    """
    if options.attention == "auto":
        raise ConfigError(
            "--attention auto is for `train` and `study`, which know the number of training rows",
            fix="give bidirectional or causal",
        )
    return options.attention


def dropout_config(options: EncoderOptions) -> DropoutConfig | None:
    """The dropout rates that were asked for, None if none were.

    Raises:
        ConfigError: A rate is not allowed.
    """
    from ..dropout import DropoutConfig

    if options.dropout is None:
        return None
    if isinstance(options.dropout, int | float):
        return DropoutConfig.uniform(options.dropout)
    return DropoutConfig(**asdict(options.dropout))


@collector_paused()
def load_encoder(
    model: str,
    dtype: str,
    device: str,
    dropout: DropoutConfig | None = None,
    compile_layers: bool | None = None,
) -> Encoder:
    """Load a trained folder for use, or for more training with other `dropout`.

    `dtype` is torch's name of one, or `auto`: bfloat16 where the device has it in hardware, else float32.

    Raises:
        CheckpointError: It isn't a folder of ours, or is not whole.
        ConfigError: There is no such device.
    """
    quiet_libraries()
    import torch

    from ..encoder import Encoder
    from ..precision import bf16_is_native

    where = pick_device(device)
    if dtype == "auto":
        dtype = "bfloat16" if bf16_is_native(where.type) else "float32"
        note(f"{dtype}: this {'GPU' if where.type == 'cuda' else 'processor'} multiplies it fastest")
    encoder = Encoder.from_pretrained(
        model,
        dtype=getattr(torch, dtype),
        device=where,
        compile_layers=compile_layers,
        dropout=dropout,
    )
    gc.freeze()  # it stays to the end: nothing in it to look for
    return encoder


def pick_device(device: str) -> torch.device:
    """`auto` is the GPU if there is one.

    Raises:
        ConfigError: There is no such device.
    """
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device is {device!r}, which can't be used", fix="use auto, cpu, cuda or cuda:N"
        ) from error
    if found.is_meta:
        raise ConfigError("device is 'meta', which computes nothing", fix="use auto, cpu, cuda or cuda:N")
    return found.device


def refuse_changed(options: Any, names: Sequence[str], reason: str) -> None:
    """Raise ConfigError if one of these options isn't at its default: it would do nothing."""
    factories = {each.name: each.default_factory for each in fields(options)}
    defaults = {each.name: each.default for each in fields(options)}
    for name in names:
        factory = factories[name]
        if getattr(options, name) != (defaults[name] if factory is MISSING else factory()):
            raise ConfigError(f"--{name} does nothing here: {reason}", fix=f"leave --{name} out")


def refuse_existing(path: str | Path, overwrite: bool, option: str = "--output") -> None:
    """Raise ConfigError if `path` is a file, or a folder with something in it, and must not be replaced."""
    path = Path(path)
    taken = path.is_file() or (path.is_dir() and any(path.iterdir()))
    if taken and not overwrite:
        raise ConfigError(f"The output exists: {path}", fix=f"choose another {option}, or add --overwrite")


def other_training_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `--args` as `EncoderTrainingArguments` takes them.

    Raises:
        ConfigError: It has no such option.
    """
    from ..training import EncoderTrainingArguments

    known = {field.name for field in fields(EncoderTrainingArguments) if field.init}
    for name in given:
        if name not in known:
            raise ConfigError(
                f"There is no training option {name!r}", fix="see transformers.TrainingArguments"
            )
    # YAML reads `no` as false.
    return {
        name: "no" if name.endswith("_strategy") and value is False else value
        for name, value in given.items()
    }


def check_writable(path: str | Path, option: str = "--output", *, folder: bool = False) -> None:
    """See now, and not after an hour of work, whether a file (or a folder) can be written at `path`.

    Raises:
        CheckpointError: It can't; says why.
    """
    target = Path(os.path.realpath(path))  # where a link leads, also one that leads nowhere yet
    parent = target.parent
    while not os.path.lexists(parent):
        parent = parent.parent
    special = target.exists() and not target.is_file() and not target.is_dir()  # such as /dev/null
    places = [*([target] if target.exists() else []), *([] if special else [parent])]
    if target.is_symlink() or parent.is_symlink():
        reason = "A link there leads to itself"
    elif not parent.is_dir():
        reason = f"{parent} is a file, not a folder"
    elif target.is_dir() and not folder:
        reason = "A folder is there, not a file"
    elif target.exists() and not target.is_dir() and folder:
        reason = "A file is there, not a folder"
    elif folder and _leads_nowhere(Path(path).absolute()):
        reason = "A link there leads nowhere, and no folder can be put in its place"
    elif not all(os.access(place, os.W_OK) for place in places):
        reason = "No permission to write there"
    else:
        return
    raise CheckpointError(reason, where=str(path), fix=f"choose another {option}")


def _leads_nowhere(path: Path) -> bool:
    """Whether a path, or a folder above it, is a link to something that isn't there."""
    while not os.path.lexists(path):
        path = path.parent
    return not path.exists()


def length_statistics(lengths: Sequence[int]) -> str:
    """Token lengths in a line: mean, median, 95th percentile, longest."""
    if not lengths:
        return "none"
    ordered = sorted(lengths)
    median, high = (ordered[int(share * len(ordered))] for share in (0.5, 0.95))
    return f"mean {sum(ordered) / len(ordered):.1f}, median {median}, 95% {high}, longest {ordered[-1]}"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return str(value)
