"""One reading of the corpus: counts, hash, the split of each document, and what cannot be trained on."""

from pathlib import Path

import pytest

from mai.data import survey
from mai.data.document import judge
from mai.data.documents import find_pieces
from mai.data.split import share_of, split_of
from mai.data.survey import Survey, survey_corpus
from mai.errors import DataError


def look(*entries: Path, held_out_fraction: float = 0.3) -> Survey:
    pieces = find_pieces([str(entry) for entry in entries])
    return survey_corpus(pieces, held_out_fraction=held_out_fraction, advance=lambda num_bytes: None)


def test_documents_left_out_are_counted_by_reason(corpus):
    (corpus / "a.txt").write_bytes(b"")
    (corpus / "b.txt").write_bytes(b"\xff")
    (corpus / "c.txt").write_bytes(b"\xfe")
    found = look(corpus)
    assert found.num_documents == 40
    assert found.rejected == {"empty": 1, "not_utf8": 2}


def test_a_document_stays_on_its_side_when_others_come_and_go():
    digests = [judge("", str(number).encode()).digest for number in range(1000)]
    held_out = {digest for digest in digests if split_of(digest, held_out_fraction=0.02) == "held_out"}
    assert 5 < len(held_out) < 40
    more = {digest for digest in digests if split_of(digest, held_out_fraction=0.1) == "held_out"}
    assert held_out < more


def test_the_corpus_hash_knows_texts_and_order_but_not_paths(corpus, tmp_path):
    before = look(corpus).corpus_sha256
    moved = corpus.rename(tmp_path / "elsewhere")
    assert look(moved).corpus_sha256 == before
    (moved / "0000.txt").write_text("changed")
    assert look(moved).corpus_sha256 != before


def test_the_sample_is_of_training_documents_and_the_same_in_any_order_of_reading(corpus, monkeypatch):
    monkeypatch.setattr(survey, "SAMPLE_BYTES", 2000)
    files = sorted(corpus.iterdir())
    sample = look(*files).sample
    assert sample == look(*reversed(files)).sample
    assert 2000 <= sum(map(len, sample)) < 3000
    assert all(share_of(judge("", text.encode()).digest) >= 0.3 for text in sample)


def test_a_corpus_where_nothing_can_be_used_says_why_and_where(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff")
    (tmp_path / "b.txt").write_bytes(b"")
    with pytest.raises(DataError, match=r"none of the 2 documents .*1 not_utf8, first .*a\.txt; 1 empty.*iconv"):
        look(tmp_path)


def test_a_file_of_blank_lines_holds_no_document(tmp_path):
    (tmp_path / "lines.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match="no document at all"):
        look(tmp_path)


def test_one_document_cannot_be_trained_on_and_held_out(tmp_path):
    (tmp_path / "a.txt").write_text("alone")
    with pytest.raises(DataError, match=r"one document.*split it"):
        look(tmp_path)


def test_a_fraction_that_holds_out_nothing_names_one_that_does(corpus):
    with pytest.raises(DataError, match=r"held_out_fraction=1e-06 holds out none of the 40 documents") as caught:
        look(corpus, held_out_fraction=1e-6)
    look(corpus, held_out_fraction=float(str(caught.value).rsplit(" ", 1)[1]))


def test_a_fraction_that_leaves_nothing_to_train_on_names_one_that_does(corpus):
    with pytest.raises(DataError, match=r"held_out_fraction=0.99999 leaves none of the 40 documents") as caught:
        look(corpus, held_out_fraction=0.99999)
    look(corpus, held_out_fraction=float(str(caught.value).rsplit(" ", 1)[1]))
