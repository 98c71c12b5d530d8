"""The folder an encoder is saved in: a sentence-transformers module stack plus `gemma_encoder.json`.

`docs/format.md` names every file. Nothing here imports sentence-transformers: its module files are plain JSON and
safetensors, written and read as such.
"""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from .errors import CheckpointError, ConfigError, GemmaEncoderError
from .model_card import model_card

if TYPE_CHECKING:
    from .encoder import Encoder, EncoderConfig

FORMAT_VERSION = 1
CONFIG_FILE = "gemma_encoder.json"
WEIGHTS_FILE = "model.safetensors"
ADAPTER_FILE = "adapter_model.safetensors"

_ST = "sentence_transformers"
_ACTIVATIONS = {
    "tanh": "torch.nn.modules.activation.Tanh",
    "gelu": "torch.nn.modules.activation.GELU",
    "relu": "torch.nn.modules.activation.ReLU",
    "silu": "torch.nn.modules.activation.SiLU",
}
_IDENTITY = "torch.nn.modules.linear.Identity"


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
            CheckpointError: A tensor is missing or has another shape.
        """
        encoder.head.output_scale, encoder.head.output_shift = self.output_scale, self.output_shift
        for name, module, state in (("pooler", encoder.pooler, self.pooler_state), ("head", encoder.head, self.head_state)):
            wanted = module.state_dict()
            missing = [key for key in wanted if key not in state]
            wrong = [key for key in wanted if key in state and state[key].shape != wanted[key].shape]
            if missing or wrong:
                key = (missing or wrong)[0]
                what = "is missing" if missing else f"has shape {tuple(state[key].shape)}, not {tuple(wanted[key].shape)}"
                raise CheckpointError(
                    f"Tensor {key} of the {name} {what}", where=str(self.folder), fix="copy the whole folder again, or retrain"
                )
            module.load_state_dict(state)


# -------------------------------------------------------------------------------------------------- saving


def save_encoder(encoder: Encoder, folder: str | Path, *, merge_adapter: bool = True) -> None:
    """Write an encoder's folder as a whole: it is put together beside the target and moved there at the end.

    Args:
        encoder: What to save. It is not changed.
        folder: Where to. Must be new, empty, or a folder this function wrote; then it is replaced.
        merge_adapter: Fold a LoRA adapter into the saved weights. False keeps the adapter as files of its own, and the
            decoder it belongs to is loaded again from where it came from.

    Raises:
        CheckpointError: The folder can't be written, or holds something else. What stood there before is intact.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise CheckpointError("The target is a file", where=str(folder), fix="give a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CONFIG_FILE).is_file():
        raise CheckpointError(
            "The folder holds other files and is not overwritten", where=str(folder), fix="give a new or empty folder"
        )
    scratch: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        new, old = scratch / "new", scratch / "old"
        new.mkdir()
        with _quiet():
            _write(encoder, new, merge_adapter)
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CheckpointError(
            f"The model can't be saved: {reason}", where=str(folder), fix="free disk space or give a folder you may write"
        ) from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def _write(encoder: Encoder, folder: Path, merge_adapter: bool) -> None:
    config = encoder.config
    adapter_kept = _is_peft(encoder.backbone) and not merge_adapter
    if adapter_kept:
        encoder.backbone.save_pretrained(str(folder))  # type: ignore[operator]
        (folder / "README.md").unlink(missing_ok=True)
    else:
        stock = encoder.stock_backbone
        state = _merged_state(encoder.backbone) if _is_peft(encoder.backbone) else None
        stock.save_pretrained(folder, state_dict=state)
    tokenizer = copy.deepcopy(encoder.tokenizer)
    tokenizer.chat_template = encoder.text.chat_template()
    tokenizer.model_max_length = config.text.max_length
    tokenizer.save_pretrained(folder)

    modules = [(f"{_ST}.base.modules.transformer.Transformer", "", {}, {})]
    modules += _pooler_module(encoder)
    modules += _head_modules(encoder)
    for index, (_, name, options, state) in enumerate(modules[1:], start=1):
        subfolder = folder / f"{index}_{name}"
        subfolder.mkdir()
        _dump(subfolder / "config.json", options)
        if state:
            save_file({key: tensor.detach().float().cpu().contiguous() for key, tensor in state.items()}, subfolder / WEIGHTS_FILE)
    _dump(
        folder / CONFIG_FILE,
        {
            "format_version": FORMAT_VERSION,
            "encoder": config.to_dict(),
            "output_scale": encoder.head.output_scale,
            "output_shift": encoder.head.output_shift,
            "adapter": "kept" if adapter_kept else "none",
        },
    )
    (folder / "README.md").write_text(model_card(config, adapter_kept), encoding="utf-8")
    if adapter_kept:
        return  # sentence-transformers would load the adapter's base with its causal mask: give it nothing to open
    _dump(
        folder / "modules.json",
        [
            {"idx": index, "name": str(index), "path": f"{index}_{name}" if index else "", "type": kind}
            for index, (kind, name, _, _) in enumerate(modules)
        ],
    )
    forward = {"method": "forward", "method_output_name": "last_hidden_state"}
    _dump(
        folder / "sentence_bert_config.json",
        {
            "transformer_task": "feature-extraction",
            "modality_config": {"text": forward, "message": {**forward, "format": "flat"}},
            "module_output_name": "token_embeddings",
        },
    )
    _dump(
        folder / "config_sentence_transformers.json",
        {"model_type": "CrossEncoder", "activation_fn": _IDENTITY, "prompts": {}, "default_prompt_name": None},
    )
    _label_names(folder / "config.json", config)


def _pooler_module(encoder: Encoder) -> list[tuple[str, str, dict[str, Any], dict[str, Tensor]]]:
    pooling, hidden_size = encoder.config.pooling, encoder.pooler.hidden_size
    mode = {"mean": "mean", "first_k": "cls", "last_k": "lasttoken"}.get(pooling.kind)
    if mode and (mode == "mean" or (pooling.k == 1 and not pooling.skip_bos)):
        options = {"embedding_dimension": hidden_size, "pooling_mode": mode, "include_prompt": True}
        return [(f"{_ST}.sentence_transformer.modules.pooling.Pooling", "Pooling", options, {})]
    options = {"pooling": encoder.config.to_dict()["pooling"], "hidden_size": hidden_size}
    return [("gemma_encoder.st_modules.EncoderPooling", "Pooling", options, encoder.pooler.state_dict(prefix="pooler."))]


def _head_modules(encoder: Encoder) -> list[tuple[str, str, dict[str, Any], dict[str, Tensor]]]:
    """LayerNorm and Dense modules; a regression head's scale and shift are folded into the last one."""
    head, modules = encoder.head, []
    if isinstance(head.norm, nn.LayerNorm):
        options = {"dimension": head.norm.normalized_shape[0]}
        modules.append(
            (f"{_ST}.sentence_transformer.modules.layer_norm.LayerNorm", "LayerNorm", options, head.norm.state_dict(prefix="norm."))
        )
    last = copy.deepcopy(head.output)
    with torch.no_grad():
        last.weight.mul_(head.output_scale)
        last.bias.mul_(head.output_scale).add_(head.output_shift)
    for linear in (*head.layers, last):
        options = {
            "in_features": linear.in_features,
            "out_features": linear.out_features,
            "bias": True,
            "activation_function": _IDENTITY if linear is last else _ACTIVATIONS[encoder.config.head.activation],
            "module_input_name": "sentence_embedding",
            "module_output_name": "scores" if linear is last else "sentence_embedding",
        }
        modules.append((f"{_ST}.base.modules.dense.Dense", "Dense", options, linear.state_dict(prefix="linear.")))
    return modules


def _merged_state(backbone: nn.Module) -> dict[str, Tensor]:
    """The stock state dict with every LoRA update added in; the live model stays as it is, to the bit."""
    from peft.tuners.lora import LoraLayer

    stock = backbone.get_base_model()  # type: ignore[operator]
    updates: dict[str, Tensor] = {}
    for name, module in stock.named_modules():
        if isinstance(module, LoraLayer):
            updates[f"{name}.weight"] = sum(module.get_delta_weight(adapter) for adapter in module.active_adapters)  # type: ignore[attr-defined]
    if not updates:
        raise CheckpointError("The adapter is no LoRA adapter and can't be merged", fix="save with merge_adapter=False")
    state = {}
    for key, tensor in stock.state_dict().items():
        if ".lora_" in key:
            continue
        name = key.replace(".base_layer.", ".")
        state[name] = tensor + updates[name].to(tensor.dtype) if name in updates else tensor
    return state


def _label_names(path: Path, config: EncoderConfig) -> None:
    """Label names and problem type where users of transformers look for them."""
    stock = json.loads(path.read_text(encoding="utf-8"))
    stock["id2label"] = {str(index): label for index, label in enumerate(config.labels)}
    stock["label2id"] = {label: index for index, label in enumerate(config.labels)}
    stock["problem_type"] = config.problem_type
    _dump(path, stock)


# ------------------------------------------------------------------------------------------------- loading


def is_encoder_folder(folder: str | Path) -> bool:
    """Whether a folder was written by `save_encoder`."""
    return (Path(folder) / CONFIG_FILE).is_file()


def load_encoder_parts(folder: str | Path, dtype: torch.dtype = torch.float32) -> EncoderParts:
    """Load what a folder holds.

    Args:
        folder: Written by `save_encoder`.
        dtype: Type of the backbone's weights. Pooler and head are float32.

    Raises:
        CheckpointError: The folder is no encoder, not whole, or of a newer format.
        DecoderError: The decoder that a kept adapter belongs to can't be loaded.
    """
    folder = Path(folder)
    saved, config = _read_config(folder)
    try:
        with _quiet():
            backbone = _load_adapted(folder, config, dtype) if saved["adapter"] == "kept" else _load_backbone(folder, dtype)
            tokenizer = AutoTokenizer.from_pretrained(folder)
    except GemmaEncoderError:
        raise
    except Exception as error:  # transformers, tokenizers, peft and safetensors each raise their own kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"The model can't be loaded: {reason}", where=str(folder), fix="copy the whole folder again, or retrain"
        ) from error
    tensors = _read_modules(folder)
    pooler_state = {key.removeprefix("pooler."): tensor for key, tensor in tensors[0].items()}
    head_state = _head_state(tensors[1:], config, saved["output_scale"], saved["output_shift"])
    return EncoderParts(
        backbone, tokenizer, config, pooler_state, head_state, saved["output_scale"], saved["output_shift"], folder
    )


def _read_config(folder: Path) -> tuple[dict[str, Any], EncoderConfig]:
    from .encoder import EncoderConfig

    if not folder.is_dir():
        raise CheckpointError("The model folder does not exist", where=str(folder), fix="check the path")
    path = folder / CONFIG_FILE
    if not path.is_file():
        decoder = (folder / "config.json").is_file()
        raise CheckpointError(
            f"{CONFIG_FILE} is missing: " + ("this is a model, but no encoder of ours" if decoder else "this is no model"),
            where=str(folder),
            fix="make an encoder of it with `gemma-encoder adapt`" if decoder else "name a folder written by adapt or train",
        )
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        version = saved["format_version"]
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"The folder has format {version}, this version reads up to {FORMAT_VERSION}",
                where=str(path),
                fix="upgrade gemma-encoder",
            )
        saved = {"output_scale": 1.0, "output_shift": 0.0, "adapter": "none", **saved}
        return saved, EncoderConfig.from_dict(saved["encoder"])
    except (ValueError, KeyError, TypeError, OSError, ConfigError) as error:
        raise CheckpointError(f"{CONFIG_FILE} can't be read: {error}", where=str(path), fix="copy the folder again") from error


def _load_backbone(folder: Path, dtype: torch.dtype) -> nn.Module:
    if not any(folder.glob("model*.safetensors")):
        raise CheckpointError(f"{WEIGHTS_FILE} is missing", where=str(folder), fix="copy the whole folder again")
    backbone, report = AutoModel.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise CheckpointError(
            f"{len(missing)} tensors are missing, first {missing[0]}", where=str(folder), fix="copy the whole folder again"
        )
    return backbone


def _load_adapted(folder: Path, config: EncoderConfig, dtype: torch.dtype) -> nn.Module:
    from peft import PeftModel

    from .attention import apply_policy
    from .decoders import load_decoder

    if not (folder / ADAPTER_FILE).is_file():
        raise CheckpointError(f"{ADAPTER_FILE} is missing", where=str(folder), fix="copy the whole folder again")
    base = load_decoder(config.decoder, dtype=dtype).backbone
    apply_policy(base, config.attention, config.window)
    return PeftModel.from_pretrained(base, str(folder))


def _read_modules(folder: Path) -> list[dict[str, Tensor]]:
    """Tensors of the numbered module folders, in order: pooler first, then the head's modules."""
    subfolders = sorted(
        (path for path in folder.iterdir() if path.is_dir() and path.name.split("_")[0].isdigit()),
        key=lambda path: int(path.name.split("_")[0]),
    )
    if not subfolders:
        raise CheckpointError("Pooler and head are missing", where=str(folder), fix="copy the whole folder again")
    tensors = []
    for subfolder in subfolders:
        path = subfolder / WEIGHTS_FILE
        try:
            tensors.append(load_file(path) if path.is_file() else {})
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"The weights can't be read: {error}", where=str(path), fix="copy the folder again") from error
    return tensors


def _head_state(modules: list[Mapping[str, Tensor]], config: EncoderConfig, scale: float, shift: float) -> dict[str, Tensor]:
    """Undo `_head_modules`. Missing tensors are left out and reported by `EncoderParts.restore`."""
    names = ["norm"] if config.head.norm == "layer_norm" else []
    names += [f"layers.{layer}" for layer in range(config.head.depth)] + ["output"]
    state = {}
    for name, module in zip(names, modules, strict=False):
        for key, tensor in module.items():
            state[f"{name}.{key.split('.')[-1]}"] = tensor
    if "output.weight" in state and "output.bias" in state:
        state["output.weight"] = state["output.weight"] / scale
        state["output.bias"] = (state["output.bias"] - shift) / scale
    return state


# ------------------------------------------------------------------------------------------------- helpers


def _is_peft(backbone: nn.Module) -> bool:
    return hasattr(backbone, "peft_config")


def _dump(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of transformers for what takes two seconds."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
