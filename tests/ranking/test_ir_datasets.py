"""A data set of ir_datasets, registered here from files: nothing is fetched."""

import pytest

from gemma_encoder.errors import ConfigError, DataError
from gemma_encoder.ranking.collection import open_collection
from gemma_encoder.ranking.run_lists import RunLists

ir_datasets = pytest.importorskip("ir_datasets")


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("irds")
    (folder / "docs.tsv").write_text("d1\tmoney in the bank\nd2\tthe river bank\n")
    (folder / "queries.tsv").write_text("q1\tmoney\nq2\triver\n")
    (folder / "qrels").write_text("q1 0 d1 1\nq2 0 d2 2\n")
    (folder / "run").write_text("q1 Q0 d2 1 2.0 x\nq1 Q0 d1 2 1.0 x\n")
    from ir_datasets.formats import TrecQrels, TrecScoredDocs, TsvDocs, TsvQueries
    from ir_datasets.util import LocalDownload

    docs = TsvDocs(LocalDownload(folder / "docs.tsv"))
    queries = TsvQueries(LocalDownload(folder / "queries.tsv"))
    qrels = TrecQrels(LocalDownload(folder / "qrels"), {})
    scored = TrecScoredDocs(LocalDownload(folder / "run"))
    ir_datasets.registry.register("tiny-test", ir_datasets.Dataset(docs, queries, qrels, scored))
    ir_datasets.registry.register("tiny-test/unjudged", ir_datasets.Dataset(docs, queries))
    ir_datasets.registry.register("tiny-test/queries", ir_datasets.Dataset(queries))
    return "irds:tiny-test"


def test_a_data_set_is_a_collection(registered, tmp_path):
    found = open_collection(registered, judged=True)
    assert found.queries == {"q1": "money", "q2": "river"}
    assert (
        dict(found.corpus) == {"d1": "money in the bank", "d2": "the river bank"} and len(found.corpus) == 2
    )
    assert "d9" not in found.corpus and found.corpus["d2"] == "the river bank"
    assert found.qrels == {"q1": {"d1": 1}, "q2": {"d2": 2}} and found.run == {"q1": {"d2": 2.0, "d1": 1.0}}
    lists = RunLists(found.run, found.queries, found.corpus, found.qrels)
    assert [(each.documents, each.labels) for each in lists] == [
        (("the river bank", "money in the bank"), (0, 1))
    ]
    assert open_collection(registered).qrels is None  # nobody asked: all queries, as for folders
    (tmp_path / "mine.trec").write_text("q1 0 d2 3\n")
    assert open_collection(registered, qrels=tmp_path / "mine.trec").qrels == {"q1": {"d2": 3}}


def test_what_it_lacks_is_said(registered):
    with pytest.raises(DataError, match="no such data set"):
        open_collection("irds:no-such/set")
    with pytest.raises(DataError, match="no documents or no queries"):
        open_collection(f"{registered}/queries")
    with pytest.raises(DataError, match="no judgments"):
        open_collection(f"{registered}/unjudged", judged=True)
    with pytest.raises(ConfigError, match="brings queries and corpus"):
        open_collection(registered, queries="x")
