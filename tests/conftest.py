"""For all tests: no network, and no more threads than tiny models can use."""

import os

# Before anything imports the libraries that read them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that asks the hub for something fails at once
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # or it warns in every test that starts a process

import torch

if "OMP_NUM_THREADS" not in os.environ:
    torch.set_num_threads(1)  # layers of 32 units: more threads only wait for one another
