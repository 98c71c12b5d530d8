"""Attention that is bidirectional in some layers only: masks written out, refusals, folders."""

import dataclasses
import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModel

from gemma_encoder.attention import packed_attention
from gemma_encoder.attention_backends import PackedContext
from gemma_encoder.checkpoint import saved_config
from gemma_encoder.dropout import decoder_layers
from gemma_encoder.encoder import Encoder
from gemma_encoder.encoder_config import EncoderConfig
from gemma_encoder.errors import AttentionError, ConfigError
from gemma_encoder.inspection import describe, render
from gemma_encoder.packing import pack
from gemma_encoder.receptive import assert_bidirectional, receptive_field
from gemma_encoder.speed.contenders import CONTENDERS, Settings
from gemma_encoder.speed.exporting import write_onnx
from gemma_encoder.testing import FAMILIES, tiny_decoder

WINDOW = 5  # odd: half of it must be rounded down
LENGTHS = (14, 3, 1, 6)  # longer and shorter than the window


def sizes(family: str) -> dict[str, int]:
    return {"sliding_window": WINDOW} if family in ("gemma2", "gemma3", "mistral") else {}


def encoder_of(family: str = "gemma3", **options) -> Encoder:
    return Encoder.from_decoder(tiny_decoder(family, **sizes(family)), seed=0, **options)


def batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(4, 100, (len(LENGTHS), max(LENGTHS)), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def states_of(encoder: Encoder, inputs: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
    inputs = inputs or batch()
    return encoder.encode_tokens(**inputs)[inputs["attention_mask"].bool()]


# --------------------------------------------------------------------------------------- what is computed

# How far a local layer of window 5 sees before and after, by window policy.
CAUSAL = {"radius": (4, 0), "width": (4, 0), "full": (99, 0)}
BOTH_WAYS = {"radius": (5, 5), "width": (2, 2), "full": (99, 99)}


@torch.no_grad()
def written_out(family: str, bidirectional: set[int], window: str) -> torch.Tensor:
    """States of the untouched decoder with eager attention, each layer given a mask of its own."""
    backbone = tiny_decoder(family, **sizes(family)).backbone
    backbone.set_attn_implementation("eager")
    inputs = batch()
    width = max(LENGTHS)
    for index, layer in enumerate(decoder_layers(backbone)):
        local = family == "mistral" or (family in ("gemma2", "gemma3") and index % 2 == 0)
        reaches = BOTH_WAYS if index in bidirectional else CAUSAL
        back, forward = reaches[window if local else "full"]
        mask = torch.full((len(LENGTHS), 1, width, width), -1e9)
        for row, length in enumerate(LENGTHS):
            for i in range(length):
                for j in range(length):
                    if i - back <= j <= i + forward:
                        mask[row, 0, i, j] = 0.0

        def give(module, args, kwargs, mask=mask):
            return args, {**kwargs, "attention_mask": mask}

        layer.register_forward_pre_hook(give, with_kwargs=True)
    states = backbone(
        **inputs, position_ids=torch.arange(width).expand(len(LENGTHS), -1), use_cache=False
    ).last_hidden_state
    return states[inputs["attention_mask"].bool()]


@pytest.mark.parametrize("window", ["radius", "width", "full"])
@pytest.mark.parametrize(
    ("layers", "bidirectional"), [("1:3", {1, 2}), ("-1:", {3}), (":1", {0}), ("2:", {2, 3}), (":-3", {0})]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_those_of_the_decoder_under_masks_written_out(family, layers, bidirectional, window):
    expected = written_out(family, bidirectional, window)
    encoder = encoder_of(family, bidirectional_layers=layers, window=window, verify=False)
    for backend in ("auto", "sdpa", "eager", "matmul", "flex"):
        if (backend, family) == ("sdpa", "gemma2"):
            continue  # it has no soft-cap
        encoder.requested_backend = backend
        difference = (states_of(encoder) - expected).abs().max()
        assert difference <= 1e-4 * expected.abs().max(), backend


@pytest.mark.parametrize("window", ["radius", "width", "full"])
@pytest.mark.parametrize("family", ["gemma2", "gemma3", "llama"])
def test_a_range_of_all_layers_is_plain_bidirectional_attention(family, window):
    plain = encoder_of(family, window=window, verify=False)
    ranged = encoder_of(family, window=window, bidirectional_layers="0:4", verify=False)
    assert torch.equal(states_of(ranged), states_of(plain))


def after_each_layer(encoder: Encoder, last: int) -> list[torch.Tensor]:
    """States of one text after each layer, where its last token is `last`."""
    found: list[torch.Tensor] = []
    layers = decoder_layers(encoder.backbone)
    handles = [layer.register_forward_hook(lambda *given: found.append(given[2])) for layer in layers]
    ids = torch.tensor([[5, 6, 7, 8, 9, last]])
    with torch.no_grad():
        encoder.encode_tokens(ids, torch.ones_like(ids))
    for handle in handles:
        handle.remove()
    return found


def test_a_later_token_reaches_earlier_ones_in_the_chosen_layer_only():
    encoder, causal = encoder_of(bidirectional_layers="-1:"), encoder_of(attention="causal")
    one, other = after_each_layer(encoder, 10), after_each_layer(encoder, 11)
    for index in range(3):
        assert torch.equal(one[index][:, :-1], other[index][:, :-1])
        assert torch.equal(one[index], after_each_layer(causal, 10)[index])
        assert (one[index][:, -1] != other[index][:, -1]).any(), "the token itself has changed"
    assert (one[3][:, :-1] != other[3][:, :-1]).any(dim=-1).all()


@pytest.mark.parametrize(
    ("window", "reaches"),
    [
        ("radius", [(4, 0), (None, 0), (5, 5), (None, None)]),
        ("width", [(4, 0), (None, 0), (2, 2), (None, None)]),
        ("full", [(None, 0), (None, 0), (None, None), (None, None)]),
    ],
)
@pytest.mark.parametrize("family", ["gemma2", "gemma3"])
def test_the_reach_of_each_layer_is_measured(family, window, reaches):
    encoder = encoder_of(family, bidirectional_layers="2:", window=window)
    fields = receptive_field(encoder).layers
    assert [(field.reach_back, field.reach_forward) for field in fields] == reaches
    assert [field.problem for field in fields] == [None] * 4
    assert [field.kind for field in fields] == ["causal"] * 2 + ["bidirectional"] * 2
    assert "bidirectional in layers 2:, causal in the others" in render(describe(encoder))
    with pytest.raises(AttentionError, match="layers 2:, the others causal"):
        assert_bidirectional(encoder)


def test_a_layer_on_the_wrong_side_of_the_range_is_refused():
    decoder = tiny_decoder("gemma3")
    decoder.backbone.layers[1].self_attn.layer_idx = 2
    with pytest.raises(AttentionError, match="measured bidirectional.*layer 1 of 4"):
        Encoder.from_decoder(decoder, bidirectional_layers="2:")


def test_a_family_whose_layers_can_not_be_told_apart_is_refused():
    decoder = tiny_decoder("llama")
    for layer in decoder.backbone.layers:
        del layer.self_attn.layer_idx
    encoder = Encoder.from_decoder(decoder, bidirectional_layers="2:", verify=False)
    with pytest.raises(AttentionError, match="does not tell which layer.*leave bidirectional_layers out"):
        states_of(encoder)


class Layer(torch.nn.Identity):
    def __init__(self, index: int) -> None:
        super().__init__()
        self.layer_idx = index


@pytest.mark.parametrize("backend", ["sdpa", "eager", "matmul", "flex"])
def test_layers_of_one_window_do_not_share_what_is_kept_for_a_batch(backend):
    """FlexAttention keeps its block masks, `matmul` its masks, for all layers of a pass."""
    layout = pack(torch.ones(1, 6))
    states, value = torch.zeros(1, 1, 6, 6), torch.eye(6)[None, None]
    context = PackedContext(layout, False, backend, causal_layers=frozenset({0}), halves_windows=True)
    for window in (4, None):
        for index in (0, 1, 0):
            output, _ = packed_attention(
                Layer(index), states, states, value, None, packed=context, sliding_window=window
            )
            back, forward = [(3, 0), (2, 2)][index] if window else [(9, 0), (9, 9)][index]
            seen = [[int(i - back <= j <= i + forward) for j in range(6)] for i in range(6)]
            assert (output[0, :, 0] > 0).int().tolist() == seen


@pytest.mark.parametrize("backend", ["auto", "eager", "matmul"])
def test_a_ramp_is_for_the_bidirectional_layers(backend):
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(1, 2, 7, 8, generator=generator) for _ in range(3)]
    layout = pack(torch.ones(1, 7))

    def attend(layer: int, context: PackedContext) -> torch.Tensor:
        return packed_attention(Layer(layer), *states, None, packed=context)[0]

    mixed = PackedContext(layout, False, backend, future=0.25, causal_layers=frozenset({0}))
    causal, ramped = PackedContext(layout, True, "eager"), PackedContext(layout, False, "eager", 0.25)
    torch.testing.assert_close(attend(0, mixed), attend(0, causal))
    torch.testing.assert_close(attend(1, mixed), attend(1, ramped))
    assert not torch.allclose(attend(1, mixed), attend(1, causal), atol=1e-2)
    fast = dataclasses.replace(mixed, backend="sdpa")  # which knows no ramp, and a causal layer needs none
    torch.testing.assert_close(attend(0, fast), attend(0, causal))


# ---------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("all", "bidirectional_layers is 'all'.*9:18, 9: or -6:"),
        (":", "leave it out for all"),
        ("1:2:3", "1:2:3"),
        ("1", "is '1'"),
        (558, "is 558.*in YAML in quotes"),  # what YAML makes of 9:18
        ((1, 2), r"is \(1, 2\)"),
        ("2:2", "the decoder has 4 layers.*name some of the layers 0 to 3"),
        ("3:1", "has 4 layers"),
        ("4:", "has 4 layers"),
        ("1:5", "has 4 layers"),
        ("-5:", "has 4 layers"),
        (":-4", "has 4 layers"),
    ],
)
def test_ranges_that_are_none_are_refused(layers, message):
    with pytest.raises(ConfigError, match=message):
        encoder_of(bidirectional_layers=layers)


def test_a_causal_encoder_has_no_bidirectional_layers():
    with pytest.raises(ConfigError, match="does nothing with attention causal"):
        EncoderConfig(attention="causal", bidirectional_layers="1:")


def test_the_padded_layout_is_refused(tmp_path):
    refusal = "bidirectional_layers is '1:3'.*stock attention is the same in all layers.*packed layout"
    with pytest.raises(ConfigError, match=refusal):
        encoder_of(bidirectional_layers="1:3", layout="padded")
    encoder = encoder_of(bidirectional_layers="1:3")
    with pytest.raises(ConfigError, match=refusal):
        encoder.layout = "padded"
    assert encoder.layout == "packed"
    with pytest.raises(ConfigError, match=refusal):
        write_onnx(encoder, tmp_path / "model.onnx")
    encoder.save_pretrained(tmp_path / "model")
    with pytest.raises(ConfigError, match=refusal):
        Encoder.from_pretrained(tmp_path / "model", layout="padded")


# ------------------------------------------------------------------------------------- folders and training


@pytest.mark.parametrize("window", ["radius", "width", "full"])
@pytest.mark.parametrize("family", ["gemma2", "gemma3", "mistral"])
def test_a_folder_gives_the_same_encoder(family, window, tmp_path):
    encoder = encoder_of(family, bidirectional_layers="-2:", window=window, labels=("no", "yes"))
    encoder.save_pretrained(tmp_path / "model")
    again = Encoder.from_pretrained(tmp_path / "model")
    assert again.config == encoder.config == saved_config(tmp_path / "model")
    assert torch.equal(states_of(again), states_of(encoder))
    again.save_pretrained(tmp_path / "model")  # over itself
    assert torch.equal(states_of(Encoder.from_pretrained(tmp_path / "model")), states_of(encoder))


def test_others_can_not_open_the_folder(tmp_path):
    """They would compute bidirectional attention in all layers, and not say so."""
    folder = str(tmp_path / "model")
    encoder_of(bidirectional_layers="-2:").save_pretrained(folder)
    with pytest.raises(ValueError, match="Unrecognized model"):
        AutoModel.from_pretrained(folder)
    sentence_transformers = pytest.importorskip("sentence_transformers")
    with pytest.raises(ValueError, match="Unrecognized model"):
        sentence_transformers.CrossEncoder(folder)
    with pytest.raises(ConfigError, match=r"modules\.json is missing"):
        CONTENDERS["CrossEncoder"](folder, Settings())
    card = (tmp_path / "model" / "README.md").read_text()
    assert "layers -2:, the others causal" in card and "CrossEncoder" not in card


def test_a_folder_of_one_kind_may_be_replaced_by_one_of_the_other(tmp_path):
    plain, mixed = encoder_of(), encoder_of(bidirectional_layers="-2:")
    for encoder in (plain, mixed, plain):
        encoder.save_pretrained(tmp_path / "model")
        assert torch.equal(states_of(Encoder.from_pretrained(tmp_path / "model")), states_of(encoder))
        assert (tmp_path / "model" / "config.json").is_file() == (encoder is plain)


def test_a_folder_from_before_is_bidirectional_in_all_layers(tmp_path):
    encoder_of().save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "gemma_encoder.json"
    saved = json.loads(file.read_text())
    assert saved["encoder"].pop("bidirectional_layers", "absent") is None
    file.write_text(json.dumps(saved))
    again = Encoder.from_pretrained(tmp_path / "model")
    assert again.config.bidirectional_layers is None and not again.causal_layers


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("in_memory", [True, False])
def test_lora_survives_saving(merge, in_memory, tmp_path):
    decoder = tiny_decoder("gemma3", sliding_window=WINDOW)
    decoder.backbone.save_pretrained(tmp_path / "decoder")
    decoder.tokenizer.save_pretrained(tmp_path / "decoder")
    source = decoder if in_memory else tmp_path / "decoder"
    encoder = Encoder.from_decoder(source, bidirectional_layers="2:", window="width", seed=0)
    torch.manual_seed(0)
    lora = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    encoder.backbone = get_peft_model(encoder.stock_backbone, lora)
    encoder.eval().save_pretrained(tmp_path / "model", merge_adapter=merge)
    again = Encoder.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(states_of(again), states_of(encoder), rtol=1e-4, atol=1e-4)
    assert [field.problem for field in receptive_field(again).layers] == [None] * 4


def test_another_head_on_the_same_layers(tmp_path):
    trained = encoder_of(bidirectional_layers="-2:", window="width")
    trained.save_pretrained(tmp_path / "model")
    begun = Encoder.from_encoder(tmp_path / "model", problem_type="ranking", labels=["score"])
    expected = {"problem_type": "ranking", "labels": ("score",), "warm_start": ("model",)}
    assert begun.config == dataclasses.replace(trained.config, **expected)
    assert torch.equal(states_of(begun), states_of(trained))
    for other in (None, "1:"):
        with pytest.raises(ConfigError, match="The encoder's bidirectional_layers is '-2:'"):
            Encoder.from_encoder(tmp_path / "model", bidirectional_layers=other)
