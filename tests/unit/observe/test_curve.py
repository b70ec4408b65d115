"""Curves in a terminal: known data gives the drawing that one expects."""

import pytest

from mai.observe.curve import curve, sparkline


def test_a_falling_line_falls_from_the_top_left_to_the_bottom_right() -> None:
    lines = curve(range(101), [10 - step / 10 for step in range(101)], width=26, height=6)
    assert lines == [
        " 9.95 \u2524\u2809\u2822\u2884\u2840\u2800\u2800\u2800\u2800\u2800\u2800\u2800\u2800\u2800\u2800",
        "      \u2502\u2800\u2800\u2800\u2808\u2811\u2824\u28c0\u2800\u2800\u2800\u2800\u2800\u2800\u2800",
        "3.763 \u2524\u2800\u2800\u2800\u2800\u2800\u2800\u2800\u2809\u2812\u2884\u2840\u2800\u2800\u2800",
        " 0.05 \u2524\u2800\u2800\u2800\u2800\u2800\u2800\u2800\u2800\u2800\u2800\u2808\u2811\u2822\u28c0",
        "      \u2514\u2500\u2500\u2500\u2500\u2500\u2500\u2500\u2500\u2500\u2500\u2500\u2500\u2500\u2500",
        "       0          100",
    ]


def test_a_gap_is_crossed_by_a_straight_line() -> None:
    lines = curve([0, 100], [0.0, 100.0], width=26, height=6)
    assert lines[:4] == [
        " 100 \u2524\u2800\u2800\u2800\u2800\u2800\u2800\u2800\u2800\u2800\u2800\u2880\u2860\u2814\u280a",
        "     \u2502\u2800\u2800\u2800\u2800\u2800\u2800\u2800\u28c0\u2824\u280a\u2801\u2800\u2800\u2800",
        "37.5 \u2524\u2800\u2800\u2800\u2880\u2860\u2812\u2809\u2800\u2800\u2800\u2800\u2800\u2800\u2800",
        "   0 \u2524\u2860\u2814\u280a\u2801\u2800\u2800\u2800\u2800\u2800\u2800\u2800\u2800\u2800\u2800",
    ]


def test_every_column_of_dots_has_a_dot() -> None:
    lines = curve([0, 50, 100], [1.0, 3.0, 2.0], width=40, height=10)
    plot = [line.split("\u2524")[-1].split("\u2502")[-1] for line in lines[:8]]
    for column in range(len(plot[0])):
        bits = [ord(row[column]) - 0x2800 for row in plot]
        assert any(bit & 0x47 for bit in bits)
        assert any(bit & 0xB8 for bit in bits)


def test_means_are_drawn_where_points_are_many() -> None:
    noisy = [5.0 + (1 if step % 2 else -1) for step in range(10_000)]
    lines = curve(range(10_000), noisy, width=40, height=8)
    highest, lowest = float(lines[0].split()[0]), float(lines[5].split()[0])
    assert 4.9 < lowest < highest < 5.1


@pytest.mark.parametrize("ys", [[2.5], [2.5, 2.5], [0.0, 0.0], [float("nan"), 1.0], [1e-9, 1e12]])
def test_odd_data_is_drawn_within_its_box(ys: list[float]) -> None:
    lines = curve(range(len(ys)), ys, width=40, height=8)
    assert len(lines) == 8
    assert all(len(line) <= 40 for line in lines)


def test_nothing_finite_draws_nothing() -> None:
    assert curve([1, 2], [float("nan"), float("inf")], width=40, height=8) == []
    assert sparkline([float("nan"), 1.0], width=10) == ""


def test_a_sparkline_rises_and_falls_with_its_values() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], width=8) == "".join(map(chr, range(0x2581, 0x2589)))
    assert sparkline([1, 9], width=8) == "\u2581\u2588"
    assert len(sparkline(list(range(1000)), width=8)) == 8
