"""Decoder in, encoder out: stock backbone under an attention policy, then pooler, then head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import ModelOutput

from .attention import PACKED_ATTENTION, apply_policy
from .attention_backends import (
    AttentionNeeds,
    Backend,
    BackendName,
    PackedContext,
    check_backend_name,
    resolve_backend,
)
from .decoders import Decoder, load_decoder
from .dropout import DropoutConfig, base_model, install_dropout
from .encoder_config import EncoderConfig, overridden
from .errors import ConfigError
from .heads import MLPHead
from .losses import RankingLoss, loss_for
from .packing import aligned, moved, pack, repad, rounded, unpad
from .pooling import build_pooler
from .text import TextTokenizer, TokenizedBatch

Layout = Literal["packed", "padded"]
PaddingSide = Literal["right", "left"]
PaddedPositions = Literal["text", "row"]

ROW_PARTS, ROW_PARTS_OF_TRAINING = 64, 16
"""On a CPU a packed row is filled up by one token in so many at most. Batches of training have any number of
tokens, passes of scoring nearly all of the budget; and each number costs memory, see `packing.rounded`."""


@dataclass
class EncoderOutput(ModelOutput):
    """What a forward pass gives.

    Attributes:
        loss: Mean loss over the rows, only with labels.
        logits: Scores before softmax or sigmoid, float32 `[B, num_labels]`.
        pooled: The pooled vectors, float32 `[B, D]`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    pooled: Tensor | None = None


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Torch's generator begins with `seed` inside and is as it was behind; None leaves it alone."""
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        yield


class Encoder(nn.Module):
    """A decoder's backbone as an encoder for classification, regression or ranking.

    Build it with `from_decoder` or `from_pretrained`. It takes ordinary padded `input_ids` and
    `attention_mask`; inside, the backbone runs on the packed layout by default, so padding costs nothing and
    its side can't matter.

    Attributes:
        config: The options it was built with.
        backbone: Stock transformers model without a language-model head, or PEFT's wrapper of it.
        pooler: Token states to one vector.
        head: Vector to scores.
        tokenizer: The decoder's tokenizer.
        text: Texts to token ids, by template, length limit and special-token policy.
        compile_layers: Whether scoring computes the layers by compiled code (`compiling`). If None: from
            where a stream of rows has become so long that it pays.
        padding_side: Where the padded layout moves its padding; None leaves it where it is.
        padded_positions: What the padded layout counts positions from: a text's first token, or the row's
            first place, so that padding on the left shifts them.
        future_weight: What later tokens count in bidirectional attention of the packed layout, from 0 (as if
            it were causal) to 1 (as much as earlier ones); below 1 on the way of a training only.
    """

    def __init__(
        self,
        backbone: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        config: EncoderConfig,
        *,
        layout: Layout = "packed",
        backend: BackendName | Literal["auto"] = "auto",
        compile_layers: bool | None = None,
    ) -> None:
        """Wrap a backbone whose attention policy is set already; `from_decoder` sets it."""
        super().__init__()
        check_backend_name(backend)
        self.config = config
        self.backbone = backbone
        self.tokenizer = tokenizer
        self.text = TextTokenizer(tokenizer, config.text)
        self.pooler = build_pooler(config.pooling, self.stock_backbone.config.hidden_size)
        self.head = MLPHead(
            config.head, self.pooler.output_size, config.num_labels, dropout=config.dropout.head
        )
        self.requested_backend = backend
        self.layout = layout
        self.compile_layers = compile_layers
        self.padding_side: PaddingSide | None = None
        self.padded_positions: PaddedPositions = "text"
        self.future_weight = 1.0
        install_dropout(self.stock_backbone, config.dropout)

    # -------------------------------------------------------------------------------- in and out of folders

    @classmethod
    def from_decoder(
        cls,
        decoder: str | Path | Decoder,
        config: EncoderConfig | None = None,
        *,
        verify: bool = True,
        dtype: torch.dtype = torch.float32,
        seed: int | None = None,
        layout: Layout = "packed",
        backend: BackendName | Literal["auto"] = "auto",
        **overrides: Any,
    ) -> Encoder:
        """Turn a decoder into an encoder with a new pooler and head.

        Args:
            decoder: Name (`gemma-3-270m`), folder, `.gguf` file, hub id, or a loaded `Decoder` (changed in
                place).
            config: Options, the defaults if None.
            verify: Measure both layouts and refuse a model of which a layer does not attend as asked, or
                whose layouts disagree.
            dtype: Type of the backbone's weights. Pooler and head are always float32.
            seed: Seed for the new pooler and head, torch's generator as it stands if None.
            layout: `packed`, or `padded` through stock attention (the reference).
            backend: Attention back end to insist on, or `auto`.
            **overrides: Fields of `EncoderConfig` to change, e.g. `pooling="attention"`, `dropout=0.1`.

        Raises:
            DecoderError: The decoder can't be found or loaded, or is of a family that can't be adapted.
            AttentionError: A layer does not attend as the policy says.
            ConfigError: An option is not allowed, or not with this decoder.
        """
        from .verification import assert_adapted, choose_padding_side, refuse_unfit

        check_backend_name(backend)
        config = overridden(EncoderConfig() if config is None else config, overrides)
        if not isinstance(decoder, Decoder):
            decoder = load_decoder(decoder, dtype=dtype)
        config = replace(config, decoder=decoder.source)
        refuse_unfit(decoder, config)
        choose_padding_side(decoder)
        apply_policy(decoder.backbone, config.attention, config.window, mixed=config.mixed)
        with seeded(seed):
            encoder = cls(decoder.backbone, decoder.tokenizer, config, layout=layout, backend=backend)
        encoder.eval()
        if verify:
            assert_adapted(encoder)
        return encoder

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device | None = None,
        layout: Layout = "packed",
        backend: BackendName | Literal["auto"] = "auto",
        compile_layers: bool | None = None,
        dropout: DropoutConfig | float | None = None,
    ) -> Encoder:
        """Load a folder written by `save_pretrained`, in eval mode.

        Args:
            folder: The folder.
            dtype: Type of the backbone's weights.
            device: Where to put it, the CPU if None.
            layout: `packed` or `padded`.
            backend: Attention back end to insist on, or `auto`.
            compile_layers: See the attribute.
            dropout: Rates (or one for all) for further training, those saved if None.

        Raises:
            CheckpointError: The folder is no model, not whole, or of a newer format.
            ConfigError: Unknown layout or back end, a layout that the encoder can't have, or a rate that is
                not allowed.
        """
        from .checkpoint import load_encoder_parts

        check_backend_name(backend)  # before seconds of loading
        rates = None if dropout is None else overridden(EncoderConfig(), {"dropout": dropout}).dropout
        parts = load_encoder_parts(folder, dtype)
        config = parts.config if rates is None else replace(parts.config, dropout=rates)
        encoder = cls(
            parts.backbone,
            parts.tokenizer,
            config,
            layout=layout,
            backend=backend,
            compile_layers=compile_layers,
        )
        parts.restore(encoder)
        return encoder.to(device).eval() if device is not None else encoder.eval()

    @classmethod
    def from_encoder(
        cls,
        folder: str | Path,
        *,
        keep_head: bool = False,
        dtype: torch.dtype = torch.float32,
        seed: int | None = None,
        layout: Layout = "packed",
        backend: BackendName | Literal["auto"] = "auto",
        **overrides: Any,
    ) -> Encoder:
        """Begin another task with what an encoder has learnt: its backbone, a new pooler and head.

        Args:
            folder: Written by `save_pretrained`.
            keep_head: Keep pooler and head too, for a task to which their scores mean the same: how much two
                texts have to do with each other is something to rank by.
            dtype: Type of the backbone's weights. Pooler and head are always float32.
            seed: Seed for the new pooler and head, torch's generator as it stands if None.
            layout: `packed` or `padded`.
            backend: Attention back end to insist on, or `auto`.
            **overrides: Fields of `EncoderConfig` to change, e.g. `problem_type="ranking", labels=["score"]`;
                the others stay as they are in the folder. The attention, its window and its layers are the
                backbone's.

        Raises:
            CheckpointError: The folder is no model, not whole, or of a newer format; or a head that is kept
                gives another number of scores.
            ConfigError: An option is not allowed, not with this backbone, or is the backbone's own.
        """
        from .checkpoint import load_encoder_parts
        from .verification import refuse_unfit

        check_backend_name(backend)
        parts = load_encoder_parts(folder, dtype)
        config = overridden(parts.config, overrides)
        for name in ("attention", "window", "bidirectional_layers", "decoder", "warm_start"):
            kept, asked = getattr(parts.config, name), getattr(config, name)
            if asked != kept:
                raise ConfigError(
                    f"The encoder's {name} is {kept!r} and can't be made {asked!r}",
                    where=str(folder),
                    fix=f"leave {name} out, or begin with the decoder",
                )
        refuse_unfit(Decoder(base_model(parts.backbone), parts.tokenizer, config.decoder), config)
        config = replace(config, warm_start=(*config.warm_start, Path(folder).resolve().name))
        with seeded(seed):
            encoder = cls(parts.backbone, parts.tokenizer, config, layout=layout, backend=backend)
        if keep_head:
            parts.restore(encoder)
        return encoder.eval()

    def save_pretrained(self, folder: str | Path, *, merge_adapter: bool = True, remark: str = "") -> None:
        """Write a folder that `from_pretrained` and sentence-transformers open (`docs/format.md`).

        Args:
            folder: Where to. A folder written before is replaced as a whole, or stays as it was on failure.
            merge_adapter: Fold a LoRA adapter into the saved weights, or keep it beside its base.
            remark: A sentence for the model card.

        Raises:
            CheckpointError: The folder can't be written.
        """
        from .checkpoint import save_encoder

        save_encoder(self, folder, merge_adapter=merge_adapter, remark=remark)

    # ------------------------------------------------------------------------------------------- properties

    @property
    def stock_backbone(self) -> PreTrainedModel:
        """The transformers model itself, under PEFT's wrapper if there is one."""
        return base_model(self.backbone)

    @property
    def device(self) -> torch.device:
        """Where the backbone is."""
        return next(self.backbone.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the backbone's weights."""
        return next(self.backbone.parameters()).dtype

    @property
    def layout(self) -> Layout:
        """`packed` or `padded`; may be set at any time."""
        return self._layout

    @layout.setter
    def layout(self, layout: Layout) -> None:
        self.check_layout(layout)
        self._layout: Layout = layout
        stock = self.stock_backbone
        # transformers before 5.22 would take SDPA for Gemma 2 too and leave its soft-cap out without a word.
        padded = "sdpa" if stock._supports_sdpa and not self.softcap else "eager"
        stock.set_attn_implementation(PACKED_ATTENTION if layout == "packed" else padded)

    def check_layout(self, layout: Layout) -> None:
        """Refuse a layout that this encoder can't have.

        Raises:
            ConfigError: It is unknown, or it is `padded` and only some layers are bidirectional: stock
                attention is the same in all.
        """
        if layout not in get_args(Layout):
            raise ConfigError(f"layout is {layout!r}", fix="use packed or padded")
        if layout == "padded" and self.config.mixed:
            raise ConfigError(
                f"bidirectional_layers is {self.config.bidirectional_layers!r}, and in the padded layout "
                "stock attention is the same in all layers",
                fix="use the packed layout, or an encoder without bidirectional_layers",
            )

    @property
    def causal_layers(self) -> frozenset[int]:
        """Indices of the layers whose attention is causal."""
        return self.config.causal_layers(self.stock_backbone.config.num_hidden_layers)

    @property
    def backend(self) -> Backend:
        """The attention back end of the next forward pass and the reason for it, as the module stands now.

        It is that of texts of the maximal length; shorter ones may get another.
        """
        config: Any = self.stock_backbone.config
        if self.layout == "padded":
            return Backend(config._attn_implementation, "stock attention of the padded layout")
        device = self.device.type
        autocast = torch.is_autocast_enabled(device)
        needs = AttentionNeeds(
            device=device,
            dtype=torch.get_autocast_dtype(device) if autocast else self.dtype,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            softcap=self.softcap,
            dropout=self.training and self.config.dropout.attention > 0,
            gradients=self.training,
            longest=self.config.text.max_length,
            dims_future=self.future_weight < 1,
        )
        return resolve_backend(needs, self.requested_backend)

    @property
    def softcap(self) -> bool:
        """Whether attention scores are soft-capped. Gemma 3 has the config field too and never uses it."""
        config: Any = self.stock_backbone.config
        capped = getattr(config, "attn_logit_softcapping", None) is not None
        return capped and not config.model_type.startswith("gemma3")

    # ----------------------------------------------------------------------------------------------- compute

    def tokenize(self, rows: Sequence[str | tuple[str, str]]) -> TokenizedBatch:
        """Texts, or pairs of texts, to token ids by the model's template; see `text.TextTokenizer.encode`."""
        return self.text.encode(rows)

    def collate(self, input_ids: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """Pad token ids on the right: `input_ids` and `attention_mask`, int64 `[B, S]`, on the CPU.

        The encoder takes its batches from there: see `encode_tokens`.
        """
        lengths = torch.tensor([len(tokens) for tokens in input_ids])
        real = torch.arange(int(lengths.max())) < lengths[:, None]
        ids = torch.full(real.shape, int(self.tokenizer.pad_token_id or 0))
        ids[real] = torch.tensor([token for tokens in input_ids for token in tokens])
        return {"input_ids": ids, "attention_mask": real.long()}

    def encode_tokens(self, input_ids: Tensor, attention_mask: Tensor, *, fill: bool = False) -> Tensor:
        """Last hidden states of the backbone, `[B, S, H]`, on its device; padding is undefined.

        Args:
            input_ids: Token ids `[B, S]`, padded on either side. On the CPU or on the encoder's device; a GPU
                needn't be waited for to lay out a batch that is on the CPU.
            attention_mask: 1 for real tokens `[B, S]`, where the token ids are.
            fill: Let the packed row be a few tokens longer, so that the shapes of its products are few; see
                `packing.rounded`.

        Raises:
            DataError: A row without a token, or padding between tokens.
        """
        device = self.device
        layout = pack(attention_mask)
        if self.layout == "padded":
            return self._encode_padded(moved(input_ids, device), moved(attention_mask, device))
        ids = unpad(input_ids, layout)
        ids, layout = moved(ids, device), layout.to(device)
        parts = ROW_PARTS_OF_TRAINING if torch.is_grad_enabled() else ROW_PARTS
        row = layout.filled(rounded(layout.tokens, parts)) if fill else layout
        ids = F.pad(ids, (0, row.tokens - layout.tokens))
        packed = PackedContext(
            row,
            self.config.attention == "causal",
            self.requested_backend,
            self.future_weight,
            self.causal_layers if self.config.mixed else frozenset(),
            self.config.halves_windows,
        )
        states = self.backbone(
            input_ids=ids.unsqueeze(0),
            position_ids=row.position_ids.unsqueeze(0),
            use_cache=False,
            packed=packed,
        ).last_hidden_state
        return repad(states.squeeze(0)[: layout.tokens], layout)

    def _encode_padded(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """By stock attention; the states are where the tokens came from, on whichever side the padding is."""
        places = None if self.padding_side is None else aligned(attention_mask, self.padding_side)
        if places is not None:
            input_ids, attention_mask = input_ids.gather(1, places), attention_mask.gather(1, places)
        positions = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
        if self.padded_positions == "row":
            positions = torch.arange(positions.shape[1], device=positions.device).expand_as(positions)
        states: Tensor = self.backbone(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=positions, use_cache=False
        ).last_hidden_state
        if places is None:
            return states
        return torch.zeros_like(states).scatter(1, places.unsqueeze(-1).expand_as(states), states)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor | None = None,
        lists: Tensor | None = None,
    ) -> EncoderOutput:
        """Score a batch.

        Args:
            input_ids: Token ids `[B, S]`, padded on either side; as the mask, on the CPU or on its device.
            attention_mask: 1 for real tokens, 0 for padding, `[B, S]`.
            labels: Classes `[B]` (int), 0/1 per label `[B, num_labels]` (multi-label), targets `[B]`
                (regression), or relevance `[B]` (ranking).
            lists: In ranking, which list each row belongs to, int `[B]`.

        Returns:
            Logits `[B, num_labels]`, pooled vectors `[B, D]`, and the mean loss if labels are given.
        """
        states = self.encode_tokens(input_ids, attention_mask, fill=self.device.type == "cpu")
        pooled = self.pooler(states, attention_mask)
        logits = self.head(pooled)
        labels, lists = (None if each is None else moved(each, logits.device) for each in (labels, lists))
        loss = None if labels is None else self.loss(logits, labels, lists=lists)
        return EncoderOutput(loss=loss, logits=logits, pooled=pooled)

    def loss(
        self,
        logits: Tensor,
        labels: Tensor,
        reduction: Literal["mean", "sum"] = "mean",
        lists: Tensor | None = None,
        ranking_loss: RankingLoss = "softmax",
    ) -> Tensor:
        """Loss of scores `[B, num_labels]` against labels, over the rows (in ranking over the `lists`).

        Regression errors are measured in units of the head's output scale (the training targets' standard
        deviation), so learning rates mean the same for targets of any size.
        """
        if self.config.problem_type == "regression":
            logits, labels = logits / self.head.output_scale, labels / self.head.output_scale
        return loss_for(self.config.problem_type, ranking_loss)(logits, labels, reduction, lists)

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """Trade compute for memory in the backbone; the Trainer calls this when its arguments say so."""
        stock: Any = self.stock_backbone
        if hasattr(stock, "activation_checkpointing_enable"):
            stock.activation_checkpointing_enable(activation_checkpointing_kwargs, **options)
        else:  # transformers before that name
            stock.gradient_checkpointing_enable(activation_checkpointing_kwargs)

    gradient_checkpointing_enable = activation_checkpointing_enable
