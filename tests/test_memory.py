"""Freed memory stays with the process until it is given back."""

import gc
import subprocess
import sys

import pytest

from gemma_encoder.memory import collector_paused

FRESH_PAGES = """
import resource
import torch
from gemma_encoder.memory import keep_freed_memory

assert keep_freed_memory() is True
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.zeros(2**24)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""

GIVEN_BACK = """
import resource
from pathlib import Path
import torch
from gemma_encoder.memory import give_back_freed_memory, keep_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
keep_freed_memory()
large = torch.zeros(2**26)  # 256 MiB
above = torch.zeros(2**20)  # what is freed below it is not the end of the heap
del large
kept = resident()
give_back_freed_memory()
print(kept - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_a_tensor_gets_the_pages_of_the_last_one():
    """In a process of its own, since the setting outlives a test."""
    done = subprocess.run([sys.executable, "-c", FRESH_PAGES], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 64 * 2**20 / 4096, "not even the pages of one tensor, of twenty"


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_what_was_kept_can_be_given_back():
    done = subprocess.run([sys.executable, "-c", GIVEN_BACK], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 0.9 * 2**28


def test_other_systems_are_left_alone(monkeypatch):
    from gemma_encoder.memory import give_back_freed_memory, keep_freed_memory

    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
    give_back_freed_memory()


@pytest.mark.parametrize("before", [True, False])
def test_the_collector_is_paused_and_then_as_it_was(before):
    was = gc.isenabled()
    (gc.enable if before else gc.disable)()
    try:
        with collector_paused():
            assert not gc.isenabled()
        assert gc.isenabled() is before
    finally:
        (gc.enable if was else gc.disable)()
