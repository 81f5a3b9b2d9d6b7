import json
from pathlib import Path
from typing import Any

import pytest

from segviz_core.atomic import write_json
from segviz_core.errors import SegVizError
from segviz_core.federation import registry
from segviz_core.federation.registry import Registry, removed_sites, wait_until_removed


class Flower:
    """Answers like Flower's command line: a new node id per registration."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.refuses: dict[str, str] = {}

    def __call__(self, *arguments: str) -> dict[str, Any]:
        self.calls.append(" ".join(Path(argument).name for argument in arguments))
        if message := self.refuses.get(arguments[1]):
            raise SegVizError(message)
        return {"node-id": 100 + len(self.calls)}


@pytest.fixture
def flower() -> Flower:
    return Flower()


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "sites").mkdir()
    return tmp_path


def want(study: Path, site: str, **more: str) -> None:
    write_json(study / "sites" / f"{site}.json", {"site": site, "allow": ["liver"], **more})


def registered(study: Path) -> dict[str, Any]:
    values = json.loads((study / "sites.json").read_text())
    assert isinstance(values, dict)
    return values


def test_key_is_registered_once_and_its_node_id_kept(study: Path, flower: Flower) -> None:
    want(study, "north")
    for _ in range(2):  # also by the next coordinator
        one = Registry(study, flower)
        one.update()
        one.update()
    assert flower.calls == ["supernode register north.pub --name north"]
    assert registered(study) == {"101": {"site": "north", "allow": ["liver"]}}


def test_site_added_later_is_registered_at_the_next_look(study: Path, flower: Flower) -> None:
    one = Registry(study, flower)
    one.update()
    assert flower.calls == []
    want(study, "north")
    one.update()
    assert "101" in registered(study)


@pytest.mark.parametrize("how", ["left", "erased"])
def test_removed_site_loses_its_place_and_the_study_learns_how(study: Path, flower: Flower, how: str) -> None:
    want(study, "north")
    Registry(study, flower).update()
    want(study, "north", removed=how)
    for _ in range(2):
        Registry(study, flower).update()
    assert flower.calls[1:] == ["supernode unregister 101"]
    assert registered(study) == {"101": {"site": "north", "allow": ["liver"], "removed": how}}
    assert removed_sites(study) == {"north": how}
    assert wait_until_removed(study, "north")


def test_site_removed_before_the_first_start_is_never_registered(study: Path, flower: Flower) -> None:
    want(study, "north", removed="left")
    Registry(study, flower).update()
    assert flower.calls == []
    assert wait_until_removed(study, "north")


def test_removal_that_was_interrupted_is_finished(study: Path, flower: Flower) -> None:
    """The coordinator was killed after Flower had done it."""
    want(study, "north")
    Registry(study, flower).update()
    want(study, "north", removed="left")
    flower.refuses["unregister"] = "Node 101 already deleted, not found or unauthorized deletion attempt."
    Registry(study, flower).update()
    assert registered(study)["101"]["removed"] == "left"


def test_refused_removal_is_reported_and_tried_again(study: Path, flower: Flower) -> None:
    want(study, "north")
    one = Registry(study, flower)
    one.update()
    want(study, "north", removed="left")
    flower.refuses["unregister"] = "no permission"
    with pytest.raises(SegVizError, match="no permission"):
        one.update()
    assert "removed" not in registered(study)["101"]
    flower.refuses.clear()
    one.update()
    assert registered(study)["101"]["removed"] == "left"


def test_wait_for_a_removal_ends_with_a_sentence(study: Path, flower: Flower, monkeypatch: pytest.MonkeyPatch) -> None:
    want(study, "north")
    Registry(study, flower).update()
    want(study, "north", removed="left")
    monkeypatch.setattr(registry, "_PATIENCE_S", 0.2)
    with pytest.raises(SegVizError, match="has not removed 'north' within 0 s"):
        wait_until_removed(study, "north")
