"""The dashboard in a terminal."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from test_dashboard import played

from segviz_core.errors import Cancelled
from segviz_core.federation import coordinator
from segviz_core.federation.dashboard_terminal import watch


def shown(folder: Path, *, terminal: bool, turns: int = 0) -> str:
    """What `watch` writes until `poll` has been called `turns` times."""
    left = [turns]

    def poll() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Cancelled

    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=120)
    if terminal and turns >= 0:
        with pytest.raises(Cancelled):
            watch(folder, poll=poll, console=console)
    else:
        watch(folder, poll=poll, console=console)
    return output.getvalue()


def test_pipe_gets_the_state_of_this_moment(tmp_path: Path) -> None:
    study = played(tmp_path, rounds=7)
    list(study.requests(["11", "22", "33"]))
    study.close_round(seconds=1.0, rejected={"22": "[red]no markup[/red]"})
    text = shown(tmp_path, terminal=False)
    assert "7 of 11 rounds" in text
    assert "north" in text
    assert "Spleen" in text
    assert "0.700" in text
    assert "[red]no markup[/red]" in text
    assert "\x1b" not in text


def test_terminal_follows_until_it_is_stopped(tmp_path: Path) -> None:
    played(tmp_path, rounds=0)
    assert "not seen yet" in shown(tmp_path, terminal=True)


def test_terminal_ends_with_the_study(tmp_path: Path) -> None:
    played(tmp_path, rounds=7)
    coordinator.write_status(tmp_path, state="finished", round=11, rounds=11)
    assert "finished" in shown(tmp_path, terminal=True, turns=-1)
