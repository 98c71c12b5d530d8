"""The built-in recipes, and a user's file in their form."""

import pytest

from gemma_encoder.dropout import DropoutConfig
from gemma_encoder.errors import ConfigError
from gemma_encoder.training import recipe_for

OWN = """
defaults: {learning_rate: 3e-5, max_train_rows: 500}
tasks:
  rte: {learning_rate: 1.0e-4, dropout: {head: 0.2}, max_validation_rows: 50}
  cb: {max_train_rows: null}
"""


@pytest.fixture
def recipe_file(tmp_path):
    def write(text: str):
        path = tmp_path / f"{abs(hash(text))}.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_what_a_file_says_comes_first_and_the_rest_stays(recipe_file):
    file = recipe_file(OWN)
    rte, cola, cb = (recipe_for(task, file) for task in ("rte", "cola", "cb"))
    assert (rte.learning_rate, cola.learning_rate) == (1e-4, 3e-5)
    assert rte.dropout == DropoutConfig(head=0.2) and cola.dropout == recipe_for("cola").dropout
    assert (rte.max_train_rows, rte.max_validation_rows, cola.max_validation_rows) == (500, 50, None)
    assert cb.max_train_rows is None and cb.num_train_epochs == recipe_for("cb").num_train_epochs
    assert recipe_for("rte") == recipe_for("rte", recipe_file("")) != rte


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tasks: {blue: {batch_size: 3}}", "unknown name in tasks: 'blue'"),
        ("epochs: 3", "unknown name in the file: 'epochs'"),
        ("defaults: {epochs: 3}", "unknown name in defaults: 'epochs'"),
        ("tasks: {cb: 3}", "no names with values in tasks: cb"),
        ("[1, 2]", "no names with values in the file"),
        ("defaults: {batch_size: 1.5}", "batch_size: 1.5 in defaults. Mend: use a whole number"),
        ("defaults: {learning_rate: fast}", "learning_rate: 'fast'"),
        ("defaults: {learning_rate: .nan}", "learning_rate: nan"),
        ("defaults: {num_train_epochs: .inf}", "num_train_epochs: inf"),
        ("tasks: {cb: {max_train_rows: 0}}", "max_train_rows: 0 in tasks: cb"),
        ("tasks: {cb: {batch_size: true}}", "batch_size: True"),
        ("defaults: {dropout: 0.1}", "dropout: 0.1 in defaults. Mend: use names with values"),
        ("defaults: {dropout: {body: 0.1}}", "unknown name in defaults: dropout: 'body'"),
        ("defaults: {dropout: {head: 2}}", "dropout.head is 2"),
        ("a: [", "can't be read"),
    ],
)
def test_a_bad_file_is_refused_by_what_is_wrong(recipe_file, text, says):
    with pytest.raises(ConfigError) as refused:
        recipe_for("cb", recipe_file(text))
    assert says in str(refused.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml can't be read"):
        recipe_for("cb", tmp_path / "none.yaml")
