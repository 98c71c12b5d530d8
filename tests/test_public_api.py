"""The public names: there, documented, and not paid for before they are used."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path

import pytest

import gemma_encoder
import gemma_encoder.ranking
import gemma_encoder.tasks

SOURCE = Path(gemma_encoder.__file__)


@pytest.mark.parametrize("name", gemma_encoder.__all__)
def test_public_name_is_documented(name):
    value = getattr(gemma_encoder, name)
    assert inspect.getdoc(value), f"{name} has no docstring"
    assert value is getattr(import_module(f"gemma_encoder.{gemma_encoder._HOMES[name]}"), name)


@pytest.mark.parametrize("package", [gemma_encoder, gemma_encoder.ranking, gemma_encoder.tasks])
def test_type_checkers_see_the_same_names(package):
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen == package._HOMES
    assert sorted(package._HOMES) == sorted(package.__all__)
    for name in package.__all__:
        assert getattr(package, name) is getattr(import_module(f"{package.__name__}.{seen[name]}"), name)
    assert (SOURCE.parent / "py.typed").is_file()


def test_dir_and_star_import():
    assert set(gemma_encoder.__all__) <= set(dir(gemma_encoder))
    names: dict[str, object] = {}
    exec("from gemma_encoder import *", names)
    assert set(gemma_encoder.__all__) <= names.keys()


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'Decodr'"):
        _ = gemma_encoder.Decodr
    assert not hasattr(gemma_encoder, "Decodr")


def test_version_is_that_of_the_distribution():
    try:
        installed = metadata.version("gemma-encoder")
    except metadata.PackageNotFoundError:
        pytest.skip("runs from sources that are not installed")
    assert gemma_encoder.__version__ == installed


HEAVY = ("torch", "transformers", "datasets", "numpy", "pandas", "sklearn", "peft", "sentence_transformers")
HELP = """
import sys
from gemma_encoder.cli.main import main
assert main({argv!r}) == 0
"""


@pytest.mark.parametrize(
    "code",
    [
        "import gemma_encoder, sys; gemma_encoder.__version__",
        *(
            HELP.format(argv=argv)
            for argv in (["--help"], ["--version"], ["train", "--help"], ["predict", "--help"])
        ),
    ],
    ids=["import", "--help", "--version", "train --help", "predict --help"],
)
def test_nothing_heavy_is_imported(code):
    check = f"\nheavy = [name for name in {HEAVY!r} if name in sys.modules]\nassert not heavy, heavy"
    done = subprocess.run([sys.executable, "-c", code + check], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
