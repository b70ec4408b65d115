import pytest

from mai.recipe.stage_text import LONGEST, as_text, layers_of_virtual_stages, texts_of_virtual_stages, written_out


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("Ett|ttL", "Ett|ttL"),
        ("E,tt|tt,L", "Ett|ttL"),
        ("Et*3|t*2L", "Ettt|ttL"),
        ("E(tt|)*3,tL", "Ett|tt|tt|tL"),
        ("E(t*2|t|)*2L", "Ett|t|tt|t|L"),
        ("Et*1,2|L", "Etttttttttttt|L"),
        ("Et|*3L", "Et|||L"),
    ],
)
def test_repeats_are_written_out(text: str, means: str) -> None:
    assert written_out(text) == means


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("E(t|", r"a \( is never closed"),
        ("Et)|tL", r"a \) closes nothing"),
        ("E((t)*2|)*2L", "parentheses stand within parentheses"),
        ("E()*2L", r"there is nothing between \( and \)"),
        ("E(t|)L", r"\(t\|\) needs a \*n behind it"),
        ("Et**2", r"a \* must stand between a letter, or a \), and a number"),
        ("Et*", r"a \* must stand between"),
        ("*3", r"a \* must stand between"),
        ("Et*2*3", r"a \* must stand between"),
        ("E(t)*2*3L", r"a \* must stand between"),
        ("2t", r"a number must follow a \*, and 2 does not"),
        ("E(t 2)*3L", r" is none of E, t, L and \|"),
        ("Etm|L", r"m is none of E, t, L and \|"),
        ("Et*0|L", r"t\*0 stands for nothing; repeat at least once"),
    ],
)
def test_what_cannot_be_read_is_told_why(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        written_out(text)


@pytest.mark.parametrize("times", ["999999", "9" * 30, "9" * 10_000])
def test_a_huge_repeat_is_refused_before_it_is_made(times: str) -> None:
    for text in (f"t*{times}", f"(t|)*{times}", f"(t*{LONGEST})*2", f"(t*{times}|)*2"):
        with pytest.raises(ValueError, match=f"more than {LONGEST} letters"):
            written_out(text)


@pytest.mark.parametrize("num_virtual_stages", range(2, 10))
def test_balanced_virtual_stages_differ_by_one_with_the_larger_ones_in_the_middle(num_virtual_stages: int) -> None:
    for num_layers in range(max(1, num_virtual_stages - 2), 4 * num_virtual_stages):
        sizes = [
            len(part)
            for part in texts_of_virtual_stages(
                "balanced", num_layers=num_layers, num_virtual_stages=num_virtual_stages
            )
        ]
        assert sum(sizes) == num_layers + 2
        larger = [part for part, size in enumerate(sizes) if size > min(sizes)]
        assert max(sizes) - min(sizes) <= 1
        assert larger == list(range(larger[0], larger[0] + len(larger))) if larger else True
        # One of the ends has to be larger where only one part is smaller: then the first, whose embedding is cheap.
        assert num_virtual_stages - 1 not in larger
        assert 0 not in larger or len(larger) == num_virtual_stages - 1


def test_embedding_and_loss_count_as_a_layer_each() -> None:
    assert texts_of_virtual_stages("balanced", num_layers=6, num_virtual_stages=4) == ["Et", "tt", "tt", "tL"]
    assert texts_of_virtual_stages("balanced", num_layers=2, num_virtual_stages=4) == ["E", "t", "t", "L"]
    assert texts_of_virtual_stages("even", num_layers=8, num_virtual_stages=4) == ["Ett", "tt", "tt", "ttL"]
    assert texts_of_virtual_stages("even", num_layers=2, num_virtual_stages=1) == ["EttL"]


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        ([4], "Et*4L"),
        ([1, 2, 2, 2, 1], "Et|(tt|)*3,tL"),
        ([1, 1, 1, 1], "Et|t|t|tL"),
        ([7, 8, 8, 7], "Et*7|t*8|t*8|t*7L"),
        ([0, 2, 0, 1], "E|tt||tL"),
        ([3, *[2] * 29, 1], "Ettt|(tt|)*29,tL"),
    ],
)
def test_parts_are_written_as_shortly_as_they_can_be(layers: list[int], text: str) -> None:
    assert as_text(layers) == text
    assert layers_of_virtual_stages(text, num_layers=sum(layers), num_virtual_stages=len(layers)) == layers
