"""Flower's database: which sites it knows must survive, all else in it (runs, messages under way) can be made anew.

Uses one private table of Flower, `node`; Testing/core/test_gate.py holds the contract.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

_BUSY_S = 10.0
_SIGNED = 2**63


def set_aside_if_damaged(path: Path) -> bool:
    """Rename a database that cannot be read to NAME.damaged, so that Flower makes a new one; whether that was done."""
    if not is_damaged(path):
        return False
    path.replace(path.with_name(f"{path.name}.damaged"))
    for rest in ("-wal", "-shm", "-journal"):
        path.with_name(path.name + rest).unlink(missing_ok=True)
    return True


def is_damaged(path: Path) -> bool:
    """Whether there is a database at `path` and it cannot be read to its end."""
    if not path.exists():
        return False
    try:
        with _open(path) as database:
            return bool(database.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok")
    except sqlite3.OperationalError:  # in use
        return False
    except sqlite3.DatabaseError:
        return True


def known_nodes(path: Path) -> dict[str, str]:
    """Node id by name of the sites that Flower's server knows."""
    with _open(path) as database:
        rows = database.execute("SELECT name, node_id FROM node").fetchall()
    return {name: str(node % (2 * _SIGNED)) for name, node in rows}


def set_node_id(path: Path, name: str, node: str) -> None:
    """Give the site `name` the id that its node and the study still use, after it had to be registered again."""
    with _open(path) as database:
        database.execute("UPDATE node SET node_id = ? WHERE name = ?", (_signed(node), name))
        database.commit()


@contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, timeout=_BUSY_S)) as database:
        yield database


def _signed(node: str) -> int:
    """Flower shows ids as unsigned numbers and stores them as signed ones."""
    value = int(node)
    return value if value < _SIGNED else value - 2 * _SIGNED
