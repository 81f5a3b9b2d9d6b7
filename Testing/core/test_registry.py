import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from segviz_core.atomic import write_json
from segviz_core.errors import SegVizError
from segviz_core.federation import registry
from segviz_core.federation.database import known_nodes, set_aside_if_damaged, set_node_id
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
    values = json.loads((study / "sites.json").read_text(encoding="utf-8"))
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


def database(path: Path, **nodes: int) -> Path:
    """Flower's table of nodes as far as it is used; ids are signed there."""
    with closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE node (node_id INTEGER, name TEXT)")
        file.executemany("INSERT INTO node VALUES (?, ?)", [(node, name) for name, node in nodes.items()])
        file.commit()
    return path


@pytest.mark.parametrize("start_over", [{}, {"north": 101}, {"north": 77}], ids=["lost", "known", "half restored"])
def test_lost_site_gets_its_old_node_id_back(study: Path, flower: Flower, start_over: dict[str, int]) -> None:
    want(study, "north")
    Registry(study, flower).update()
    path = database(study / "state.db", **start_over)

    def register(*arguments: str) -> dict[str, Any]:
        answer = flower(*arguments)
        with closing(sqlite3.connect(path)) as file:
            file.execute("INSERT INTO node VALUES (?, ?)", (answer["node-id"], "north"))
            file.commit()
        return answer

    Registry(study, register).restore(path)
    assert known_nodes(path) == {"north": "101"}
    assert len(flower.calls) == (1 if start_over else 2)


def test_removed_site_is_not_restored(study: Path, flower: Flower) -> None:
    want(study, "north")
    Registry(study, flower).update()
    want(study, "north", removed="left")
    Registry(study, flower).update()
    Registry(study, flower).restore(database(study / "state.db"))
    assert flower.calls[-1] == "supernode unregister 101"


def test_node_ids_above_the_signed_numbers_come_back_as_they_were(tmp_path: Path) -> None:
    path = database(tmp_path / "state.db", north=5, south=6)
    set_node_id(path, "north", str(2**64 - 3))
    assert known_nodes(path) == {"north": str(2**64 - 3), "south": "6"}


def test_damaged_database_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    assert not set_aside_if_damaged(path)
    database(path, **{f"site{i}": i for i in range(2000)})
    assert not set_aside_if_damaged(path)
    os.truncate(path, path.stat().st_size // 2)
    assert set_aside_if_damaged(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["state.db.damaged"]
    path.write_bytes(b"no database at all, but quite long for a text" * 100)
    assert set_aside_if_damaged(path)


def test_wait_for_a_removal_ends_with_a_sentence(study: Path, flower: Flower, monkeypatch: pytest.MonkeyPatch) -> None:
    want(study, "north")
    Registry(study, flower).update()
    want(study, "north", removed="left")
    monkeypatch.setattr(registry, "_PATIENCE_S", 0.2)
    with pytest.raises(SegVizError, match="has not removed 'north' within 0 s"):
        wait_until_removed(study, "north")
