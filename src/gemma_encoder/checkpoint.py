"""The folder an encoder is saved in: a sentence-transformers module stack plus `gemma_encoder.json`.

`docs/format.md` names every file.
"""

from __future__ import annotations

import copy
import json
import math
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from .backbone_files import BASE_FOLDER, load_backbone, write_backbone
from .decoders import quiet, save_tokenizer
from .errors import CheckpointError, ConfigError, GemmaEncoderError
from .memory import collector_paused
from .model_card import model_card
from .st_stack import dump_json, read_stack, reason, write_stack

if TYPE_CHECKING:
    from .encoder import Encoder
    from .encoder_config import EncoderConfig

FORMAT_VERSION = 1
CONFIG_FILE = "gemma_encoder.json"

# Files that our own loading can do without.
_OPTIONAL = {
    "README.md",
    "chat_template.jinja",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
}

# Written beside the model by training and evaluation: of no use to other weights.
_RECORDS = ("run.json", "evaluation-*.json")


@dataclass(frozen=True)
class EncoderParts:
    """What a folder holds, loaded but not put together."""

    backbone: nn.Module
    tokenizer: PreTrainedTokenizerBase
    config: EncoderConfig
    pooler_state: dict[str, Tensor]
    head_state: dict[str, Tensor]
    output_scale: float
    output_shift: float
    folder: Path

    def restore(self, encoder: Encoder) -> None:
        """Put the saved pooler and head into an encoder built from these parts.

        Raises:
            CheckpointError: A tensor has another shape than the options ask for.
        """
        encoder.head.output_scale, encoder.head.output_shift = self.output_scale, self.output_shift
        parts: tuple[tuple[str, nn.Module, dict[str, Tensor]], ...] = (
            ("pooler", encoder.pooler, self.pooler_state),
            ("head", encoder.head, self.head_state),
        )
        for name, module, state in parts:
            try:
                module.load_state_dict(state)
            except RuntimeError as error:
                raise CheckpointError(
                    f"The {name} does not fit the options: {reason(error)}",
                    where=str(self.folder),
                    fix=f"restore {CONFIG_FILE}, or copy the whole folder again",
                ) from error


# -------------------------------------------------------------------------------------------------- saving


def save_encoder(
    encoder: Encoder, folder: str | Path, *, merge_adapter: bool = True, remark: str = ""
) -> None:
    """Write an encoder's folder: everything is written out beside its place first, then moved there.

    Files in the folder that this function did not write stay, but for the records of the encoder that is
    replaced (`run.json`, `evaluation-*.json`).

    Args:
        encoder: What to save. It is not changed.
        folder: Where to. The encoder in it, if any, is replaced.
        merge_adapter: Fold a LoRA adapter into the saved weights. False keeps it in files of its own; the
            decoder it belongs to is loaded from where it came from, or saved in `base/` if that is not known.
        remark: A sentence for the model card.

    Raises:
        CheckpointError: The folder can't be written, or files of another origin would be overwritten. What
            stood there before is intact.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise CheckpointError("The target is a file", where=str(folder), fix="give a folder")
    owned = _owned(folder)
    _refuse_collisions(folder, ["config.json", "modules.json", "tokenizer.json", "README.md"], owned)
    scratch: Path | None = None
    saved = False
    try:
        inside = folder.exists()
        parent = folder if inside else folder.absolute().parent
        parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".saving-", dir=parent))
        new = scratch / "new"
        new.mkdir()
        with quiet():
            _write(encoder, new, merge_adapter, remark)
        if inside:
            _refuse_collisions(folder, [path.name for path in new.iterdir()], owned)
            _swap(new, folder, owned, scratch / "old")
        else:
            new.rename(folder)
        saved = True
    except Exception as error:
        # Disk full and the like; the tokenizers library raises a bare Exception for them.
        if not isinstance(error, OSError | SafetensorError) and type(error) is not Exception:
            raise
        raise CheckpointError(
            f"The model can't be saved: {getattr(error, 'strerror', None) or reason(error)}",
            where=str(folder),
            fix="free disk space, or give a folder that you may write to",
        ) from error
    finally:
        # If even the undoing failed, the former encoder's files are still in there.
        if scratch is not None and (saved or not any((scratch / "old").glob("*"))):
            shutil.rmtree(scratch, ignore_errors=True)


def _owned(folder: Path) -> set[str]:
    """Names in a folder that an earlier save wrote, and records of that encoder."""
    try:
        files = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))["files"]
        if not _are_names(files):
            raise ValueError(f"files is {files!r}")
        return {*files, *(path.name for pattern in _RECORDS for path in folder.glob(pattern))}
    except FileNotFoundError:
        return set()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{CONFIG_FILE} of the encoder that stands there can't be read",
            where=str(folder),
            fix="delete it, or give another folder",
        ) from error


def _refuse_collisions(folder: Path, names: list[str], owned: set[str]) -> None:
    foreign = sorted(name for name in names if name not in owned and (folder / name).exists())
    if foreign:
        raise CheckpointError(
            f"The folder holds files of another origin, which would be overwritten: {', '.join(foreign)}",
            where=str(folder),
            fix="give a new or empty folder",
        )


def _swap(new: Path, folder: Path, owned: set[str], old: Path) -> None:
    """Move one set of files out and another in, by renames; undone if that fails or is interrupted.

    The config file leaves first and arrives last: a folder caught half-way by a kill is refused, not misread.
    """
    old.mkdir()
    leaving = sorted(
        (name for name in owned if (folder / name).exists()), key=lambda name: name != CONFIG_FILE
    )
    arriving = sorted((path.name for path in new.iterdir()), key=lambda name: name == CONFIG_FILE)
    moves = [(folder / name, old / name) for name in leaving] + [
        (new / name, folder / name) for name in arriving
    ]
    try:
        for source, target in moves:
            source.rename(target)
    except BaseException:  # Ctrl-C too
        for source, target in reversed(moves):
            if target.exists() and not source.exists():
                target.rename(source)
        raise


def _write(encoder: Encoder, folder: Path, merge_adapter: bool, remark: str) -> None:
    """Write all files of an encoder into an empty folder."""
    config = encoder.config
    adapter = write_backbone(encoder, folder, merge_adapter=merge_adapter)
    tokenizer = copy.copy(encoder.tokenizer)  # a deep copy takes seconds, and only attributes are set
    tokenizer.chat_template = encoder.text.chat_template()
    tokenizer.model_max_length = config.text.max_length
    tokenizer.truncation_side = "right"
    save_tokenizer(tokenizer, folder)

    # Of an adapter, sentence-transformers would load the base with its causal mask, and of layers of both
    # kinds it knows nothing: give it nothing to open.
    write_stack(encoder, folder, listed=adapter is None and not config.mixed)
    (folder / "README.md").write_text(model_card(config, adapter is not None, remark), encoding="utf-8")
    saved = {
        "format_version": FORMAT_VERSION,
        "encoder": config.to_dict(),
        "output_scale": encoder.head.output_scale,
        "output_shift": encoder.head.output_shift,
        "adapter": adapter,
        "files": sorted([*(path.name for path in folder.iterdir()), CONFIG_FILE]),
    }
    dump_json(folder / CONFIG_FILE, saved)


# ------------------------------------------------------------------------------------------------- loading


def load_encoder_parts(folder: str | Path, dtype: torch.dtype = torch.float32) -> EncoderParts:
    """Load what a folder holds.

    Args:
        folder: Written by `save_encoder`.
        dtype: Type of the backbone's weights. Pooler and head are float32.

    Raises:
        CheckpointError: The folder is no encoder, not whole, or of another format; or the decoder that a kept
            adapter belongs to can't be loaded or is not the one it was trained on.
    """
    folder = Path(folder)
    saved, config = _read_config(folder)
    _check_files(folder, saved["files"])
    try:
        with quiet(), collector_paused():
            backbone: Any = load_backbone(folder, saved["adapter"], config, dtype)
            tokenizer = AutoTokenizer.from_pretrained(folder)
    except GemmaEncoderError:
        raise
    except Exception as error:  # transformers, tokenizers, peft and safetensors each raise their own kinds
        raise CheckpointError(
            f"The model can't be loaded: {reason(error)}",
            where=str(folder),
            fix="copy the whole folder again",
        ) from error
    if backbone.config.is_causal != (config.attention == "causal"):
        raise CheckpointError(
            f"config.json says is_causal={backbone.config.is_causal}, {CONFIG_FILE} says {config.attention}",
            where=str(folder),
            fix="restore the file that was changed, or copy the whole folder again",
        )
    scale, shift = saved["output_scale"], saved["output_shift"]
    pooler_state, head_state = read_stack(folder, config, backbone.config.hidden_size, scale, shift)
    return EncoderParts(backbone, tokenizer, config, pooler_state, head_state, scale, shift, folder)


def saved_config(folder: str | Path) -> EncoderConfig:
    """The options of a folder's encoder, without its weights.

    Raises:
        CheckpointError: The folder is no encoder, or of another format.
    """
    return _read_config(Path(folder))[1]


def _read_config(folder: Path) -> tuple[dict[str, Any], EncoderConfig]:
    from .encoder_config import EncoderConfig

    if not folder.is_dir():
        raise CheckpointError("The model folder does not exist", where=str(folder), fix="check the path")
    path = folder / CONFIG_FILE
    if not path.is_file():
        what, fix = _looks_like(folder)
        raise CheckpointError(f"{CONFIG_FILE} is missing: {what}", where=str(folder), fix=fix)
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        version = saved["format_version"]
        if version == FORMAT_VERSION:
            saved = {
                name: saved[name] for name in ("encoder", "output_scale", "output_shift", "adapter", "files")
            }
            _check_types(saved)
            return saved, EncoderConfig.from_dict(saved["encoder"])
    except KeyError as error:
        raise CheckpointError(
            f"{error} is missing", where=str(path), fix="copy the whole folder again"
        ) from error
    except (ValueError, TypeError, OSError, ConfigError) as error:
        raise CheckpointError(
            f"{CONFIG_FILE} can't be read: {error}", where=str(path), fix="copy the whole folder again"
        ) from error
    raise CheckpointError(
        f"The folder has format {version!r}, this version reads format {FORMAT_VERSION}",
        where=str(path),
        fix="use the version of gemma-encoder that wrote it, or a newer one",
    )


def _check_types(saved: dict[str, Any]) -> None:
    """Raise a ValueError for a value that nobody else would notice, or only much later."""
    adapter, files = saved["adapter"], saved["files"]
    sound = {
        "encoder": isinstance(saved["encoder"], dict),
        "output_scale": _is_finite(saved["output_scale"]),
        "output_shift": _is_finite(saved["output_shift"]),
        "adapter": adapter is None
        or (isinstance(adapter, dict) and {"base", "base_digest"} <= adapter.keys()),
        "files": _are_names(files),
    }
    for name, right in sound.items():
        if not right:
            raise ValueError(f"{name} is {saved[name]!r}")


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < math.inf


def _are_names(files: Any) -> bool:
    """Whether this is a list of names in the folder itself: what they name is replaced by the next save."""
    return isinstance(files, list) and all(
        isinstance(name, str) and name not in ("", ".", "..") and not {"/", "\\"} & set(name)
        for name in files
    )


def _looks_like(folder: Path) -> tuple[str, str]:
    """What a folder that is no encoder may be, and what to do with it."""
    if (folder / "adapter_config.json").is_file():
        return "this is a PEFT adapter", "name a folder written by adapt or train"
    if (folder / "modules.json").is_file():
        return "this is a sentence-transformers model", "open it with sentence-transformers"
    if (folder / "config.json").is_file():
        return (
            "this is a model of transformers, perhaps a decoder",
            "make an encoder of it with `gemma-encoder adapt`",
        )
    return "this is no model", "name a folder written by adapt or train"


def _check_files(folder: Path, files: list[str]) -> None:
    """Raise if a file is gone or a weights file is cut off; every such file is named."""
    for name in files:
        if name not in _OPTIONAL and not (folder / name).exists():
            raise CheckpointError(f"{name} is missing", where=str(folder), fix="copy the whole folder again")
    for path in sorted(folder.glob("*.safetensors")) + sorted((folder / BASE_FOLDER).glob("*.safetensors")):
        if path.relative_to(folder).parts[0] in files:
            _open(path)


def _open(path: Path) -> None:
    """Read a weights file's header, which says how long the file must be."""
    try:
        with safe_open(path, "pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"The weights can't be read: {reason(error)}", where=str(path), fix="copy the whole folder again"
        ) from error
