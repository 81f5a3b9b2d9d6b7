"""How long a study still takes."""

import pytest

from segviz_core.federation.schedule import schedule
from segviz_core.federation.settings import StudySettings
from segviz_core.federation.time_left import rounded, seconds_left


def test_time_left_shrinks_as_rounds_finish_and_follows_their_pace() -> None:
    rounds = schedule(StudySettings("s", local_steps=100, local_chunks=5, rounds=10, steps_per_round=12))
    pace = [{"round": i + 1, "seconds": 10.0} for i in range(len(rounds))]
    left = [seconds_left(rounds, pace[:n]) for n in range(1, len(rounds) + 1)]
    assert all(later < earlier for earlier, later in zip(left[::4], left[4::4], strict=False))
    assert left[-1] == 0
    assert left[9] == pytest.approx(10.0 * (len(rounds) - 10), rel=0.35)  # half-way, the guess is close to the truth
    slow = [{**row, "seconds": 50.0} for row in pace]
    assert seconds_left(rounds, slow[:8]) > 3 * left[7]


@pytest.mark.parametrize(
    "seconds, words",
    [(0, "5 s"), (33, "35 s"), (95, "2 min"), (3540, "59 min"), (7500, "2 h 0 min"), (9300, "2 h 30 min")],
)
def test_time_is_told_as_people_say_it(seconds: float, words: str) -> None:
    assert rounded(seconds) == words
