"""Ports in a row, and those that nobody saw."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kodectl.core.port_prediction import HIGHEST_PORT, LOWEST_PORT, MAX_JUMP, Seen, all_predicted, predicted, step_of


def row(*ports: int | None) -> list[Seen]:
    """None: nobody saw that one."""
    return [Seen(turn, port) for turn, port in enumerate(ports) if port is not None]


class TestStep:
    @pytest.mark.parametrize(
        ("ports", "step"),
        [
            ((5_000, None, 5_002, None, 5_004), 1),
            ((5_006, None, None, 5_000, 4_998), -2),
            ((5_000, None, 5_003, None, 5_006), 3),
            ((5_000, 5_001, 5_002), 1),
            ((5_000, 5_001, None, 5_003), 1),
            ((5_000, 5_002, None, 5_006), 2),
            ((5_000, 5_009, None, 5_010), 1),  # others took some
            ((5_003, 5_002, None, 5_000), -1),
            ((5_000, 5_000 + MAX_JUMP, 5_000 + 2 * MAX_JUMP), MAX_JUMP),
        ],
    )
    def test_is_what_the_gaps_have_in_common(self, ports: tuple[int | None, ...], step: int) -> None:
        assert step_of(row(*ports)) == step
        assert step_of(reversed(row(*ports))) == step

    @pytest.mark.parametrize(
        "ports",
        [
            (),
            (5_000,),
            (5_000, 5_001),
            (5_000, 5_002, 5_001),
            (5_000, 5_001, 5_001),
            (5_000, 5_001, 5_002 + MAX_JUMP),
            (65_534, 65_535, 1_024),
        ],
    )
    def test_of_what_is_no_row_is_none(self, ports: tuple[int, ...]) -> None:
        assert step_of(row(*ports)) is None
        assert predicted(row(*ports), 1, 3) == []

    def test_of_drawn_ports_is_none(self) -> None:
        rng = random.Random(1)
        draws = [row(*(rng.randint(LOWEST_PORT, HIGHEST_PORT) for _ in range(5))) for _ in range(10_000)]
        assert not any(step_of(draw) for draw in draws)


class TestPrediction:
    def test_is_exact_where_nobody_else_opens_ports(self) -> None:
        seen = row(5_000, 5_001, None, 5_003, None, 5_005, None, 5_007)
        assert [predicted(seen, turn, 3) for turn in (2, 4, 6)] == [[5_002], [5_004], [5_006]]

    def test_counts_down_too(self) -> None:
        assert predicted(row(5_006, 5_004, None, 5_000), 2, 3) == [5_002]

    def test_names_all_between_the_neighbours_the_first_ones_first(self) -> None:
        assert predicted(row(5_000, 5_001, None, 5_005), 2, 3) == [5_002, 5_003, 5_004]
        assert predicted(row(5_000, 5_001, None, 5_005), 2, 2) == [5_002, 5_003]

    def test_goes_on_from_the_last_where_the_later_ones_were_lost(self) -> None:
        assert predicted(row(5_000, 5_002, None, 5_006), 4, 3) == [5_008, 5_010, 5_012]
        assert predicted(row(5_000, 5_001, 5_002), 4, 2) == [5_004, 5_005]

    def test_goes_back_from_the_first(self) -> None:
        assert predicted(row(None, 5_001, 5_002, 5_003), 0, 2) == [5_000, 4_999]

    def test_skips_lost_neighbours(self) -> None:
        assert predicted(row(5_000, 5_001, None, None, None, 5_005), 4, 3) == [5_004, 5_003, 5_002]

    def test_is_nothing_where_the_packet_got_no_port_of_the_row(self) -> None:
        assert predicted(row(5_000, 5_001, None, 5_002), 2, 3) == []

    def test_never_leaves_the_ports_there_are(self) -> None:
        assert predicted(row(65_533, 65_534, 65_535), 4, 3) == []
        assert predicted(row(None, 1_024, 1_025, 1_026), 0, 3) == []

    def test_of_several_packets_names_the_likeliest_of_each_first(self) -> None:
        seen = row(5_000, 5_001, None, 5_004, None, 5_007)
        assert all_predicted(seen, (2, 4), 3) == [5_002, 5_005, 5_003, 5_006]
        assert all_predicted(row(5_000, 5_001, 5_002), (4, 6), 3) == [5_004, 5_006, 5_005, 5_007, 5_008]

    @given(
        st.lists(st.tuples(st.integers(0, 9), st.integers(1, 65_535)), max_size=10),
        st.integers(0, 9),
        st.integers(1, 4),
    )
    def test_any_ports_give_few_and_fitting_ones(self, pairs: list[tuple[int, int]], turn: int, limit: int) -> None:
        seen = [Seen(*pair) for pair in dict(pairs).items() if pair[0] != turn]
        ports = predicted(seen, turn, limit)
        assert len(ports) == len(set(ports)) <= limit
        assert all(LOWEST_PORT <= port <= HIGHEST_PORT for port in ports)
        assert not set(ports) & {one.port for one in seen}

    @given(
        st.integers(2_000, 40_000),
        st.sampled_from([-4, -2, -1, 1, 2, 3, 8]),
        st.lists(st.integers(0, 2), min_size=8, max_size=8),
    )
    def test_the_port_is_among_them_where_others_take_few(self, first: int, step: int, others: list[int]) -> None:
        taken = [first]
        for more in others[1:]:
            taken.append(taken[-1] + step * (1 + more))
        checks = (2, 4, 6)
        seen = [Seen(turn, port) for turn, port in enumerate(taken) if turn not in checks]
        if step_of(seen) == step:  # else everybody else took as many between each two
            for turn in checks:
                between = others[turn] + others[turn + 1]
                assert taken[turn] in predicted(seen, turn, between + 1)
