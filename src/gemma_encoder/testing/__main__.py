"""`python -m gemma_encoder.testing FOLDER`: a tiny random decoder in a folder, to try commands on."""

import sys
from pathlib import Path

from .tiny import tiny_decoder

if len(sys.argv) != 2:
    sys.exit("usage: python -m gemma_encoder.testing FOLDER")
decoder = tiny_decoder("gemma3")
Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
for part in (decoder.backbone, decoder.tokenizer):
    part.save_pretrained(sys.argv[1])
