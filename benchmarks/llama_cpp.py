"""Pooled vectors a second: this package against llama.cpp on the same weights, rows and pooling.

    python -m benchmarks.llama_cpp --data-dir GLUE

llama.cpp knows no head of ours, so both stop at the mean of the token states. It runs a GGUF file that is
written here with the weights of a Gemma 3 and bidirectional attention, as llama.cpp has it for
EmbeddingGemma; both are given the same token ids. In float32 the vectors must be the same; in bfloat16 the
least cosine with float32 stands in the output, and llama.cpp runs in its 8-bit Q8_0 and its 4-bit Q4_0, too.
It has the fastest of a few token budgets, since it computes attention over all tokens of a batch and masks.

Where the processor has AMX, llama-cpp-python 0.3.36 built by g++ 12 dies in Q8_0 (of `ldtilecfg`):
`--no-repack` keeps it from AMX.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from gemma_encoder.cli.common import quiet_libraries
from gemma_encoder.compiling import compiled_layers, why_not_compiled
from gemma_encoder.decoders import Decoder, load_decoder
from gemma_encoder.encoder import Encoder
from gemma_encoder.errors import ConfigError
from gemma_encoder.onednn import through_onednn
from gemma_encoder.packing import plan_batches
from gemma_encoder.speed.clock import seconds
from gemma_encoder.speed.measuring import ScoresDifferError
from gemma_encoder.speed.report import machine

from .common import (
    DTYPES,
    Comparison,
    add_common_options,
    add_data_dir,
    exit_status,
    pair_data,
    parse,
    rates_of,
    report,
)

Ids = Sequence[Sequence[int]]
Pool = Callable[[], np.ndarray]

BUDGETS = (64, 128, 256, 512, 1024)
FORMATS = {"float32": ("F32",), "bfloat16": ("BF16", "Q8_0", "Q4_0")}
"""GGUF's types that are held against ours of each precision."""
SAME = 1 - 1e-5
"""Cosine from which vectors in float32 are the same."""


def main(argv: Sequence[str] | None = None, *, decoder: Decoder | None = None) -> dict[str, Any]:
    """Run the benchmark; `decoder` replaces `--model`."""
    parser = argparse.ArgumentParser(
        prog="llama_cpp", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_options(parser)
    add_data_dir(parser)
    parser.add_argument("--rows", type=int, default=128, help="pairs pooled in a round")
    parser.add_argument("--max-tokens", type=int, default=4096, help="our token budget for a pass")
    parser.add_argument(
        "--no-repack", action="store_true", help="llama.cpp's weights as they lie in the file (see above)"
    )
    options = parse(parser, argv)
    if options.device != "cpu":
        raise ConfigError("llama.cpp is measured on a CPU only", fix="give --device cpu")
    if importlib.util.find_spec("llama_cpp") is None:
        raise ConfigError("llama-cpp-python is not installed", fix="pip install llama-cpp-python")
    quiet_libraries()
    data, source = pair_data(options.data_dir)
    decoder = decoder or load_decoder(options.model)
    encoder = Encoder.from_decoder(decoder, verify=False, seed=options.seed)
    pairs = list(zip(data.validation["text"], data.validation["text_pair"], strict=True))
    chosen = random.Random(options.seed).sample(pairs, min(options.rows, len(pairs)))
    ids = encoder.tokenize([" ".join(pair) for pair in chosen]).input_ids

    comparisons, facts = [], {"data": source, "rows": len(ids), "tokens": sum(map(len, ids))}
    with tempfile.TemporaryDirectory() as scratch:
        files = {}
        for kind in (kind for dtype in options.dtypes for kind in FORMATS[dtype]):
            files[kind] = Path(scratch) / f"{kind}.gguf"
            write_gguf(encoder, files[kind], kind)
        exact = pool_ours(encoder, ids, options.max_tokens)
        try:
            for dtype in options.dtypes:
                ours_in_dtype = copy.deepcopy(encoder).to(DTYPES[dtype])  # not rounded for what comes behind
                contenders: dict[str, Pool] = {
                    "ours": partial(pool_ours, ours_in_dtype, ids, options.max_tokens)
                }
                for kind in FORMATS[dtype]:
                    contenders[f"llama.cpp {kind}"] = fastest(
                        LlamaCpp(files[kind], ids, repack=not options.no_repack)
                    )
                for name, pool in contenders.items():
                    least = float(cosines(pool(), exact).min())
                    facts[f"least cosine with float32, {name} in {dtype}"] = f"{least:.5f}"
                    if dtype == "float32" and least < SAME:
                        raise ScoresDifferError(f"{name} computes other vectors: cosine {least:.6f}")
                rates = rates_of(contenders, len(ids), "rows/s", dtype, options)
                ours = ("ours", rates.pop("ours"))
                comparisons += [Comparison(dtype, "rows/s", ours, other) for other in rates.items()]
        finally:  # a run that is cut off leaves the precisions it has measured
            facts["machine"] = machine("cpu")
            result = report("pooled vectors", facts, comparisons, options.out)
    return result


def cosines(found: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of each row of two matrices."""
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(other, axis=1)
    return (found * other).sum(axis=1) / lengths


@torch.inference_mode()
def pool_ours(encoder: Encoder, ids: Ids, max_tokens: int) -> np.ndarray:
    """Pooled vectors `[N, H]` as scoring computes them, layers compiled where that is possible."""
    layers = compiled_layers(encoder.backbone) if why_not_compiled() is None else None
    found = np.empty((len(ids), encoder.pooler.output_size), dtype=np.float32)
    with through_onednn(encoder) if layers is None else layers.in_use():
        for batch in plan_batches([len(row) for row in ids], max_tokens):
            found[batch] = encoder(**encoder.collate([ids[row] for row in batch])).pooled
    return found


def write_gguf(encoder: Encoder, path: Path, kind: str) -> None:
    """Write the backbone of a bidirectional Gemma 3 without its vocabulary.

    Args:
        encoder: Whose backbone.
        path: Where to.
        kind: GGUF's type of the matrices; vectors are float32.

    Raises:
        ConfigError: It is no bidirectional Gemma 3.
    """
    config: Any = encoder.stock_backbone.config
    if config.model_type != "gemma3_text" or encoder.config.attention != "bidirectional":
        raise ConfigError(
            f"llama.cpp has no bidirectional {config.model_type}", fix="take a Gemma 3, bidirectional"
        )
    arch = gguf.MODEL_ARCH.GEMMA_EMBEDDING
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["full_attention"]["rope_theta"])
    writer.add_rope_freq_base_swa(config.rope_parameters["sliding_attention"]["rope_theta"])
    writer.add_sliding_window(2 * config.sliding_window)  # of which it sees a half on each side
    writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config.layer_types])
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config.vocab_size)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for name, weight in encoder.stock_backbone.state_dict().items():
        values = weight.float().numpy()
        if name.endswith("norm.weight"):
            values = values + 1  # Gemma's norms multiply by 1 + weight
        stored = gguf.GGMLQuantizationType.F32 if values.ndim == 1 else gguf.GGMLQuantizationType[kind]
        target = names.get_name(f"model.{name}", try_suffixes=(".weight",))
        writer.add_tensor(target, gguf.quants.quantize(values, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def fastest(opened: LlamaCpp) -> Pool:
    """llama.cpp with the fastest of `BUDGETS`."""
    pools = [partial(opened, budget) for budget in BUDGETS]
    pools[0]()  # what only the first call takes
    return min(pools, key=lambda pool: seconds(pool, "cpu"))


class LlamaCpp:
    """Pooled vectors of some rows by llama.cpp.

    Args:
        path: GGUF file.
        ids: Token ids of the rows.
        repack: Let it lay the weights out anew for the processor.
    """

    def __init__(self, path: Path, ids: Ids, *, repack: bool = True) -> None:
        from llama_cpp import llama_cpp

        self.library, self.ids = llama_cpp, ids
        self.lengths = [len(row) for row in ids]
        self.silent = llama_cpp.llama_log_callback(lambda *said: None)  # C has no hold on it
        llama_cpp.llama_log_set(self.silent, None)
        weights = llama_cpp.llama_model_default_params()
        weights.use_extra_bufts = repack
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), weights)
        if not self.model:
            raise ConfigError("llama.cpp can't open the model", where=str(path), fix="try another version")
        rows = max(len(batch) for batch in plan_batches(self.lengths, max(BUDGETS)))
        # llama.cpp 0.3.36 aborts unless its tokens are a multiple of its rows.
        tokens = -(-max(*BUDGETS, *self.lengths) // rows) * rows
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = tokens
        options.n_seq_max = rows
        options.n_threads = options.n_threads_batch = torch.get_num_threads()
        options.embeddings = options.kv_unified = True
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        if not self.context:
            raise ConfigError("llama.cpp can't compute that many rows at once", fix="give longer rows")
        self.batch = llama_cpp.llama_batch_init(tokens, 0, 1)
        self.size = llama_cpp.llama_model_n_embd(self.model)

    def __call__(self, max_tokens: int) -> np.ndarray:
        """Vectors `[N, H]` in the order of the rows, in batches of at most so many tokens."""
        found = np.empty((len(self.ids), self.size), dtype=np.float32)
        for rows in plan_batches(self.lengths, max_tokens):
            self._fill([self.ids[row] for row in rows])
            if self.library.llama_encode(self.context, self.batch):
                raise ConfigError("llama.cpp can't compute a batch", fix="try shorter rows")
            for place, row in enumerate(rows):
                vector = self.library.llama_get_embeddings_seq(self.context, place)
                found[row] = np.ctypeslib.as_array(vector, (self.size,))
        return found

    def _fill(self, rows: Ids) -> None:
        place, batch = 0, self.batch
        for number, row in enumerate(rows):
            for position, token in enumerate(row):
                batch.token[place], batch.pos[place] = token, position
                batch.n_seq_id[place], batch.seq_id[place][0], batch.logits[place] = 1, number, 1
                place += 1
        batch.n_tokens = place


if __name__ == "__main__":
    sys.exit(exit_status(main))
