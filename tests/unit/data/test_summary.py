"""What `mai prepare` tells."""

import json

from mai.data.prepare import prepare
from mai.data.summary import summary, summary_lines


def test_the_summary_counts_what_was_kept_and_what_was_left_out(make_recipe, corpus):
    (corpus / "empty.txt").touch()
    first, second = (prepare(make_recipe(), workers=1) for _ in range(2))
    told = json.loads(json.dumps(summary(first)))
    assert told["rejected"] == {"empty": 1}
    assert sum(split["documents"] for split in told["splits"].values()) == 40
    assert sum(split["text_bytes"] for split in told["splits"].values()) == sum(
        path.stat().st_size for path in corpus.iterdir()
    )
    assert "prepared in" in summary_lines(first)[0]
    assert "already prepared" in summary_lines(second)[0]
    assert any("left out  1 documents: 1 empty" in line for line in summary_lines(second))


def test_progress_is_one_plain_line_a_phase_where_there_is_no_terminal(make_recipe, capfd):
    prepare(make_recipe(), workers=1, progress=True)
    lines = capfd.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["read", "tokenise"]
    assert all("MB/s" in line for line in lines)
