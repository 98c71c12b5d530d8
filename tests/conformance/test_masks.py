"""Every family under every policy against the untouched decoder, given masks written out from (i, j) rules.

Nothing here goes through our policies, windows or layouts: the reference is the stock model as it was made,
with eager attention, one right-padded batch, and for each layer kind a mask filled cell by cell.
"""

import pytest
import torch

from gemma_encoder.encoder import Encoder
from gemma_encoder.testing import FAMILIES, tiny_decoder

WINDOW = 5  # odd: half of it must be rounded down
LENGTHS = (14, 3, 1, 6)  # longer and shorter than the window

# Which token j a token i of the same text sees in a local layer; `full` is also the rule of global layers.
RULES = {
    ("bidirectional", "radius"): lambda i, j: abs(i - j) <= WINDOW,
    ("bidirectional", "width"): lambda i, j: abs(i - j) <= 2,
    ("bidirectional", "full"): lambda i, j: True,
    ("causal", "radius"): lambda i, j: i - WINDOW < j <= i,
    ("causal", "width"): lambda i, j: i - WINDOW < j <= i,
    ("causal", "full"): lambda i, j: j <= i,
}


def mask_of(rule, width: int) -> torch.Tensor:
    """0 where token i sees token j, a large negative number elsewhere: `[B, 1, width, width]`."""
    mask = torch.full((len(LENGTHS), 1, width, width), -1e9)
    for row, length in enumerate(LENGTHS):
        for i in range(length):
            for j in range(length):
                if rule(i, j):
                    mask[row, 0, i, j] = 0.0
    return mask


def window_of(family: str) -> dict[str, int]:
    return {"sliding_window": WINDOW} if family in ("gemma2", "gemma3", "mistral") else {}


def reference(family: str, ids: torch.Tensor, attention: str, window: str) -> torch.Tensor:
    backbone = tiny_decoder(family, **window_of(family)).backbone
    backbone.set_attn_implementation("eager")
    seen = mask_of(RULES[attention, "full"], ids.shape[1])
    local = mask_of(RULES[attention, window], ids.shape[1])
    if family in ("gemma2", "gemma3"):
        masks = {"full_attention": seen, "sliding_attention": local}
    else:
        masks = local if family == "mistral" else seen
    positions = torch.arange(ids.shape[1]).expand(len(LENGTHS), -1)
    return backbone(
        input_ids=ids, attention_mask=masks, position_ids=positions, use_cache=False
    ).last_hidden_state


@torch.no_grad()
@pytest.mark.parametrize(("attention", "window"), RULES)
@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_those_of_the_decoder_under_a_mask_written_out(family, attention, window):
    width = max(LENGTHS)
    ids = torch.randint(4, 100, (len(LENGTHS), width), generator=torch.Generator().manual_seed(0))
    expected = reference(family, ids, attention, window)
    decoder = tiny_decoder(family, **window_of(family))
    encoder = Encoder.from_decoder(decoder, attention=attention, window=window, verify=False)
    for layout in ("packed", "padded"):
        encoder.layout = layout
        for side in ("right", "left"):
            padded = torch.full((len(LENGTHS), width + 3), 7)
            mask = torch.zeros_like(padded)
            for row, length in enumerate(LENGTHS):
                place = slice(0, length) if side == "right" else slice(width + 3 - length, None)
                padded[row, place], mask[row, place] = ids[row, :length], 1
            states = encoder.encode_tokens(padded, mask)
            for row, length in enumerate(LENGTHS):
                found = states[row][mask[row].bool()]
                scale = expected[row, :length].abs().max()
                assert (found - expected[row, :length]).abs().max() <= 1e-4 * scale, (layout, side, length)


@torch.no_grad()
@pytest.mark.parametrize("family", ["gemma2", "gemma3", "mistral"])
def test_the_rules_differ_on_these_texts(family):
    """Or the test above could not tell the window policies apart."""
    ids = torch.randint(4, 100, (len(LENGTHS), max(LENGTHS)), generator=torch.Generator().manual_seed(0))
    states = [reference(family, ids, *policy)[0] for policy in RULES if policy != ("causal", "width")]
    for index, one in enumerate(states):
        for other in states[index + 1 :]:
            assert (one - other).abs().max() > 1e-2 * one.abs().max()
