"""The backbone in a folder: stock weights, an adapter merged into them, or an adapter beside its base.

Saving reads the live model and leaves it as it is, to the bit.
"""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AutoModel

from .errors import CheckpointError, GemmaEncoderError
from .st_stack import WEIGHTS_FILE, dump_json

if TYPE_CHECKING:
    from .encoder import Encoder
    from .encoder_config import EncoderConfig

BASE_FOLDER = "base"


def write_backbone(encoder: Encoder, folder: Path, *, merge_adapter: bool) -> dict[str, Any] | None:
    """Write a backbone's weights and config.

    Args:
        encoder: Whose backbone.
        folder: Where to.
        merge_adapter: Fold an adapter into the weights, or write it by itself.

    Returns:
        None, or what `load_backbone` must know of an adapter written by itself.

    Raises:
        CheckpointError: The kind of adapter can't be merged.
    """
    adapted = is_adapted(encoder.backbone)
    if adapted and not merge_adapter:
        return _write_adapter(encoder, folder)
    state = merged_state(encoder.backbone) if adapted else None
    place = _place(folder, encoder.config)
    encoder.stock_backbone.save_pretrained(place, state_dict=state)
    _label_names(place / "config.json", encoder.config)
    return None


def load_backbone(
    folder: Path, adapter: dict[str, Any] | None, config: EncoderConfig, dtype: torch.dtype
) -> nn.Module:
    """Undo `write_backbone`.

    Raises:
        CheckpointError: A tensor is missing; or the decoder that an adapter belongs to can't be loaded or is
            not the one it was trained on.
    """
    if adapter is None:
        return _load_stock(_place(folder, config), dtype)
    return _load_adapted(folder, adapter, config, dtype)


def _place(folder: Path, config: EncoderConfig) -> Path:
    """Where a backbone is. With layers of both kinds it is no model that others may open as the folder's."""
    return folder / BASE_FOLDER if config.mixed else folder


def is_adapted(backbone: nn.Module) -> bool:
    """Whether a backbone is wrapped by PEFT."""
    return hasattr(backbone, "peft_config")


def merged_state(backbone: nn.Module) -> dict[str, Tensor]:
    """The stock state dict with the active adapter folded in.

    PEFT's own merge runs on a copy of one layer at a time, so DoRA and its like are right too, and no second
    model has to fit into memory.

    Raises:
        CheckpointError: The kind of adapter can't be merged.
    """
    return _stock_state(backbone, merge=True)


def base_state(backbone: nn.Module) -> dict[str, Tensor]:
    """The stock state dict as it was before the adapter."""
    return _stock_state(backbone, merge=False)


def digest(state: dict[str, Tensor]) -> str:
    """Short fingerprint of weights, from the first values of every tensor.

    Values are rounded to bfloat16 first, so that weights loaded as float32 and as bfloat16 have the same one.
    """
    hashed = hashlib.sha256()
    for name in sorted(state):
        values = state[name].detach().flatten()[:64].to("cpu", torch.bfloat16).float()
        hashed.update(f"{name} {tuple(state[name].shape)}".encode())
        hashed.update(values.numpy().tobytes())
    return hashed.hexdigest()[:16]


def _stock_state(backbone: nn.Module, merge: bool) -> dict[str, Tensor]:
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    stock: Any = backbone.get_base_model()  # type: ignore[operator]
    replaced: dict[str, dict[str, Tensor]] = {}
    for name, module in stock.named_modules():
        if any(name.startswith(f"{outer}.") for outer in replaced):
            continue
        if isinstance(module, BaseTunerLayer):
            replaced[name] = _layer_state(module, merge)
        elif isinstance(module, AuxiliaryTrainingWrapper):
            replaced[name] = _wrapped_state(module, merge)
    state = {
        name: tensor
        for name, tensor in stock.state_dict().items()
        if not any(name.startswith(f"{outer}.") for outer in replaced)
    }
    for outer, tensors in replaced.items():
        state.update({f"{outer}.{name}": tensor for name, tensor in tensors.items()})
    with torch.device("meta"):
        wanted = set(type(stock)(copy.deepcopy(stock.config)).state_dict())
    if wanted != set(state):
        odd = sorted(wanted ^ set(state))[0]
        raise CheckpointError(
            f"The adapter changes the backbone's structure (at {odd}) and can't be separated from it",
            fix="use a LoRA adapter on linear layers",
        )
    return state


def _layer_state(layer: Any, merge: bool) -> dict[str, Tensor]:
    """Weights of an adapted layer with its adapter folded in or taken out."""
    if merge != bool(layer.merged):
        layer = copy.deepcopy(layer)
        with torch.no_grad():
            layer.merge() if merge else layer.unmerge()
    return layer.get_base_layer().state_dict()


def _wrapped_state(wrapper: Any, merge: bool) -> dict[str, Tensor]:
    """Weights of a module that is trained as a whole beside the adapter (`modules_to_save`)."""
    if not hasattr(wrapper, "modules_to_save"):
        raise CheckpointError(
            f"A {type(wrapper).__name__} can't be saved", fix="train without trainable_token_indices"
        )
    inner = wrapper.modules_to_save[wrapper.active_adapters[0]] if merge else wrapper.original_module
    return inner.state_dict()


def _write_adapter(encoder: Encoder, folder: Path) -> dict[str, Any]:
    """Write a LoRA adapter by itself, and its base too if that can't be had again from where it came from."""
    backbone: Any = encoder.backbone
    backbone.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)
    state = base_state(backbone)
    fingerprint = digest(state)  # before saving, which empties the dict
    again = _can_load_again(encoder, fingerprint)
    if not again:
        encoder.stock_backbone.save_pretrained(folder / BASE_FOLDER, state_dict=state)
    return {"base": encoder.config.decoder if again else BASE_FOLDER, "base_digest": fingerprint}


def _can_load_again(encoder: Encoder, fingerprint: str) -> bool:
    """Whether the decoder's source gives the very weights that the adapter was trained on.

    It does not after full fine-tuning, or where an encoder folder was trained further.
    """
    from .decoders import load_decoder

    # transformers notes where it loaded a model from; a model made in memory has no such note.
    if not encoder.config.decoder or not encoder.stock_backbone.config._name_or_path:
        return False
    try:
        base = load_decoder(encoder.config.decoder, dtype=encoder.dtype).backbone
    except GemmaEncoderError:
        return False
    return digest(base.state_dict()) == fingerprint


def _label_names(path: Path, config: EncoderConfig) -> None:
    """Label names and problem type where users of transformers look for them."""
    stock = json.loads(path.read_text(encoding="utf-8"))
    stock["id2label"] = {str(index): label for index, label in enumerate(config.labels)}
    stock["label2id"] = {label: index for index, label in enumerate(config.labels)}
    # Of ranking transformers knows nothing: some versions refuse to load a config that says so.
    stock["problem_type"] = "regression" if config.problem_type == "ranking" else config.problem_type
    dump_json(path, stock)


def _load_stock(folder: Path, dtype: torch.dtype) -> nn.Module:
    from .decoders import what_is_wrong

    backbone, report = AutoModel.from_pretrained(
        folder, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, trust_remote_code=False
    )
    if wrong := what_is_wrong(report):
        raise CheckpointError(wrong, where=str(folder / WEIGHTS_FILE), fix="copy the whole folder again")
    return backbone


def _load_adapted(
    folder: Path, adapter: dict[str, str], config: EncoderConfig, dtype: torch.dtype
) -> nn.Module:
    """Load the base from where it came from, or from `base/`, and the adapter onto it."""
    try:
        from peft import PeftModel
    except ImportError as error:
        raise CheckpointError(
            "The folder holds a LoRA adapter, and peft is not installed",
            where=str(folder),
            fix="pip install peft",
        ) from error
    from .attention import apply_policy
    from .decoders import load_decoder

    if adapter["base"] == BASE_FOLDER:
        base: Any = _load_stock(folder / BASE_FOLDER, dtype)  # saved with its policy
    else:
        try:
            base = load_decoder(adapter["base"], dtype=dtype).backbone
        except GemmaEncoderError as error:
            raise CheckpointError(
                f"The decoder that the adapter belongs to can't be loaded: {error.what}",
                where=str(folder),
                fix=f"bring {adapter['base']} back, or save the encoder with merge_adapter=True",
            ) from error
        apply_policy(base, config.attention, config.window, mixed=config.mixed)
    # float16 rounds in other places than the bfloat16 of the digest.
    if dtype != torch.float16 and digest(base.state_dict()) != adapter["base_digest"]:
        raise CheckpointError(
            f"{adapter['base']} has other weights than the decoder that the adapter was trained on",
            where=str(folder),
            fix="bring back that decoder",
        )
    return PeftModel.from_pretrained(base, str(folder))
