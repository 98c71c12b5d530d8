"""Pooler and head as a stack of sentence-transformers modules.

Their files are plain JSON and safetensors and are written and read as such, without sentence-transformers.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .errors import CheckpointError
from .pooling import PoolingConfig, build_pooler

if TYPE_CHECKING:
    from .encoder import Encoder
    from .encoder_config import EncoderConfig

WEIGHTS_FILE = "model.safetensors"

_ST = "sentence_transformers"
_ACTIVATIONS = {
    "tanh": "torch.nn.modules.activation.Tanh",
    "gelu": "torch.nn.modules.activation.GELU",
    "relu": "torch.nn.modules.activation.ReLU",
    "silu": "torch.nn.modules.activation.SiLU",
}
_IDENTITY = "torch.nn.modules.linear.Identity"
_LAYER_NORM = f"{_ST}.sentence_transformer.modules.layer_norm.LayerNorm"
_DENSE = f"{_ST}.base.modules.dense.Dense"
# What sentence-transformers must know of other libraries, lest a score be silently wrong.
_POLICY_SINCE = {"specifier": ">=5.2", "reason": "older versions ignore is_causal and attend causally"}
_SOFTCAP_SINCE = {"specifier": ">=5.22", "reason": "older versions leave out the soft-cap on attention"}
_TEMPLATE_SINCE = {"specifier": ">=6", "reason": "older versions ignore the text template"}


@dataclass(frozen=True)
class _Module:
    """One module of the stack: its class, its subfolder, what the class is built with, its tensors."""

    kind: str
    folder: str
    options: dict[str, Any]
    tensors: dict[str, Tensor]


def write_stack(encoder: Encoder, folder: Path, *, listed: bool = True) -> None:
    """Write pooler and head into numbered subfolders.

    Args:
        encoder: What to write.
        folder: Where the backbone and the tokenizer are.
        listed: Also write the files that let sentence-transformers open the folder.
    """
    modules = _stack(encoder)
    for module in modules:
        (folder / module.folder).mkdir()
        dump_json(folder / module.folder / "config.json", module.options)
        if module.tensors:
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.tensors.items()}
            save_file(tensors, folder / module.folder / WEIGHTS_FILE)
    if listed:
        _write_module_list(folder, modules, encoder)


def read_stack(
    folder: Path, config: EncoderConfig, hidden_size: int, scale: float, shift: float
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Undo `write_stack`: the state dicts of pooler and head.

    Args:
        folder: The encoder's folder.
        config: The encoder's options.
        hidden_size: Of the backbone.
        scale: The head's `output_scale`.
        shift: The head's `output_shift`.

    Raises:
        CheckpointError: A file or a tensor is missing or can't be read.
    """
    names = _stack_names(config, scale, shift)
    with torch.device("meta"):
        wanted = list(build_pooler(config.pooling, hidden_size).state_dict())
    pooler = _read_tensors(folder / names["pooler"], "pooler", wanted)
    head = {}
    for part in names:
        if part not in ("pooler", "scale"):
            prefix = "norm" if part == "norm" else "linear"
            tensors = _read_tensors(folder / names[part], prefix, ["weight", "bias"])
            head.update({f"{part}.{name}": tensor for name, tensor in tensors.items()})
    return pooler, head


def dump_json(path: Path, data: Any) -> None:
    """Write readable JSON."""
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def reason(error: BaseException) -> str:
    """The last line of what another library says, which is the one that tells."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1].strip()


def _stack(encoder: Encoder) -> list[_Module]:
    """Pooler and head as modules of sentence-transformers."""
    pooling, head = encoder.config.pooling, encoder.head
    hidden_size = encoder.pooler.hidden_size
    names = _stack_names(encoder.config, head.output_scale, head.output_shift)
    mode = _stock_mode(pooling)
    if mode:
        options: dict[str, Any] = {
            "embedding_dimension": hidden_size,
            "pooling_mode": mode,
            "include_prompt": True,
        }
        modules = [
            _Module(f"{_ST}.sentence_transformer.modules.pooling.Pooling", names["pooler"], options, {})
        ]
    else:
        options = {"pooling": asdict(pooling), "hidden_size": hidden_size}
        state = encoder.pooler.state_dict(prefix="pooler.")
        modules = [_Module("gemma_encoder.st_modules.EncoderPooling", names["pooler"], options, state)]
    if isinstance(head.norm, nn.LayerNorm):
        options = {"dimension": head.input_size}
        modules.append(_Module(_LAYER_NORM, names["norm"], options, head.norm.state_dict(prefix="norm.")))
    activation = _ACTIVATIONS[encoder.config.head.activation]
    for index, layer in enumerate(head.layers):
        modules.append(_dense(names[f"layers.{index}"], layer, activation))
    modules.append(_dense(names["output"], head.output, _IDENTITY))
    if "scale" in names:
        # A layer of its own, not folded into the output layer: folding and unfolding would round its weights.
        scale = nn.Linear(head.num_labels, head.num_labels)
        nn.init.eye_(scale.weight).data.mul_(head.output_scale)
        nn.init.constant_(scale.bias, head.output_shift)
        modules.append(_dense(names["scale"], scale, _IDENTITY))
    modules[-1].options["module_output_name"] = "scores"  # what CrossEncoder reads
    return modules


def _dense(folder: str, linear: Any, activation: str) -> _Module:
    options = {
        "in_features": linear.in_features,
        "out_features": linear.out_features,
        "bias": True,
        "activation_function": activation,
        "module_input_name": "sentence_embedding",
        "module_output_name": "sentence_embedding",
    }
    return _Module(_DENSE, folder, options, linear.state_dict(prefix="linear."))


def _stock_mode(pooling: PoolingConfig) -> str | None:
    """The pooling mode of sentence-transformers that does the same, if there is one."""
    if pooling.kind == "mean":
        return "mean"
    if pooling.k > 1 or pooling.skip_bos:
        return None
    return {"first_k": "cls", "last_k": "lasttoken"}.get(pooling.kind)


def _stack_names(config: EncoderConfig, scale: float, shift: float) -> dict[str, str]:
    """Subfolder of the pooler and of every part of the head, in order."""
    parts = [("pooler", "Pooling")]
    if config.head.norm == "layer_norm":
        parts.append(("norm", "LayerNorm"))
    parts += [(f"layers.{index}", "Dense") for index in range(config.head.depth)]
    parts.append(("output", "Dense"))
    if (scale, shift) != (1.0, 0.0):
        parts.append(("scale", "Dense"))
    return {part: f"{index}_{name}" for index, (part, name) in enumerate(parts, start=1)}


def _write_module_list(folder: Path, modules: list[_Module], encoder: Encoder) -> None:
    """Write what sentence-transformers reads first."""
    config = encoder.config
    stack = [(f"{_ST}.base.modules.transformer.Transformer", ""), *((m.kind, m.folder) for m in modules)]
    dump_json(
        folder / "modules.json",
        [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (kind, path) in enumerate(stack)],
    )
    forward = {"method": "forward", "method_output_name": "last_hidden_state"}
    dump_json(
        folder / "sentence_bert_config.json",
        {
            "transformer_task": "feature-extraction",
            "modality_config": {"text": forward, "message": {**forward, "format": "flat"}},
            "module_output_name": "token_embeddings",
            # Our own pooler takes padded tokens, also under flash attention.
            **({} if _stock_mode(config.pooling) else {"unpad_inputs": False}),
            # Said here too, or the length is capped at the decoder's max_position_embeddings.
            "processor_kwargs": {"model_max_length": config.text.max_length, "truncation_side": "right"},
        },
    )
    dump_json(
        folder / "config_sentence_transformers.json",
        {
            "model_type": "CrossEncoder",
            "activation_fn": _IDENTITY,  # logits; the default for one label would be a sigmoid
            "prompts": {},
            "default_prompt_name": None,
            "requirements": {
                "transformers": _SOFTCAP_SINCE if encoder.softcap else _POLICY_SINCE,
                "sentence_transformers": _TEMPLATE_SINCE,
            },
        },
    )


def _read_tensors(folder: Path, prefix: str, wanted: list[str]) -> dict[str, Tensor]:
    """The tensors of one module, without the prefix that sentence-transformers gives them."""
    if not wanted:
        return {}
    path = folder / WEIGHTS_FILE
    try:
        tensors = load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{WEIGHTS_FILE} is missing", where=str(folder), fix="copy the whole folder again"
        ) from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"The weights can't be read: {reason(error)}", where=str(path), fix="copy the whole folder again"
        ) from error
    for name in wanted:
        if f"{prefix}.{name}" not in tensors:
            raise CheckpointError(
                f"Tensor {prefix}.{name} is missing", where=str(path), fix="copy the whole folder again"
            )
    return {name: tensors[f"{prefix}.{name}"] for name in wanted}
