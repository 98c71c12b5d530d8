"""Files written whole: what is no file is not replaced by one."""

from __future__ import annotations

import os
import threading

import pytest

from gemma_encoder.json_files import write_json


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_is_written_to_and_stays_one(tmp_path):
    """As /dev/null, which root could replace."""
    path, read = tmp_path / "pipe", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: read.append(path.read_text()), daemon=True)
    reader.start()
    write_json(path, {"a": 1})
    reader.join(timeout=10)
    assert read == ['{\n  "a": 1\n}\n']
    assert path.is_fifo() and list(tmp_path.iterdir()) == [path]
