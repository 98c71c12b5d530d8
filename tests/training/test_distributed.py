"""Two processes learn what one does from the same rows, and only one of them writes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toy_training import arguments, data_of, encoder_of

from gemma_encoder.training import train

OPTIONS = {
    "optim": "sgd",  # a wrong factor in the gradient shows, which Adam and clipping hide
    "learning_rate": 0.05,
    "max_grad_norm": 0.0,
    "num_train_epochs": 2,
}
WORKER = """
import json, sys
from pathlib import Path
from toy_training import arguments, data_of, encoder_of
from gemma_encoder.training import train
train(encoder_of(), data_of(), arguments(Path(sys.argv[1]), **json.loads(sys.argv[2])))
"""


@pytest.mark.slow
def test_two_processes_are_one_batch(tmp_path):
    train(encoder_of(), data_of(), arguments(tmp_path / "one", per_device_train_batch_size=8, **OPTIONS))
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    # 12 tokens a pass: the two processes cut their halves into different numbers of passes.
    options = OPTIONS | {"per_device_train_batch_size": 4, "max_tokens": 12, "ddp_backend": "gloo"}
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [sys.executable, *launch, str(worker), str(tmp_path / "two"), json.dumps(options)],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=240,
    )
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-6)
    assert json.loads((tmp_path / "two" / "model" / "run.json").read_text())["steps"] == 10
    assert sorted(os.listdir(tmp_path / "two")) == ["model"]
