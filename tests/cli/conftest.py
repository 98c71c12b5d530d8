"""Encoders adapted from a tiny decoder by the command itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gemma_encoder.cli.main import main

sys.path.append(str(Path(__file__).parents[1] / "tasks"))
from suite_files import write_suites

SMALL = ["--max_length", "24", "--head.width", "8"]


@pytest.fixture(scope="session")
def adapt(decoder_folder, tmp_path_factory) -> Callable[..., Path]:
    """Make an encoder folder with `gemma-encoder adapt` and more options."""

    def make(*options: str) -> Path:
        folder = tmp_path_factory.mktemp("encoders") / "model"
        assert main(["adapt", "--model", str(decoder_folder), "--output", str(folder), *SMALL, *options]) == 0
        return folder

    return make


@pytest.fixture(scope="session")
def encoder_folder(adapt) -> Path:
    """An encoder of single texts with the labels bad and good."""
    return adapt("--labels", "bad,good")


@pytest.fixture(scope="session")
def pair_folder(adapt) -> Path:
    """An encoder of pairs with three labels."""
    return adapt("--labels", "no,maybe,yes", "--pairs")


@pytest.fixture(scope="session")
def suite_data(tmp_path_factory) -> Path:
    """Every task's splits as parts that are not the official ones."""
    return write_suites(tmp_path_factory.mktemp("suites"))


@pytest.fixture
def run(capfd) -> Callable[..., tuple[int, str, str]]:
    """Run a command line in this process: exit status, stdout, stderr."""

    def command(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        status = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return status, captured.out, captured.err

    return command


@pytest.fixture
def refused(run) -> Callable[..., str]:
    """Run a command line that must end with exit status 2 and one line on stderr; gives the line."""

    def command(*arguments: object) -> str:
        status, _, err = run(*arguments)
        assert status == 2, err
        errors = [line for line in err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and err.endswith(errors[0] + "\n") and "Traceback" not in err, err
        return errors[0]

    return command


@pytest.fixture
def nothing_needless() -> Callable[..., None]:
    """Run a command line in a process of its own, which must not load what scoring doesn't use."""
    code = (
        "import sys; from gemma_encoder.cli.main import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "needless = ('datasets', 'sklearn', 'peft', 'sentence_transformers', 'matplotlib')\n"
        "sys.exit(' '.join(name for name in needless if name in sys.modules))"
    )

    def command(*arguments: object) -> None:
        words = [sys.executable, "-c", code, *map(str, arguments)]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.stderr.splitlines()[-1:] == [""], done.stderr

    return command
