from __future__ import annotations

import ast

import mutations
from mutations import ROOMS, ROOT


def test_every_mistake_has_its_place_and_changes_what_is_computed() -> None:
    for room, rows in ROOMS.items():
        right = ast.dump(ast.parse((ROOT / room).read_text("utf-8")))
        for row in rows:
            assert ast.dump(ast.parse(mutations.mutated(room, row))) != right, row


def test_every_mistake_has_tests_that_should_notice() -> None:
    for rows in ROOMS.values():
        for row in rows:
            file, *words = row.tests.split()
            assert all(word in (ROOT / "tests" / file).read_text("utf-8") for word in words), row


def test_every_room_that_trains_stores_or_shows_has_mistakes() -> None:
    rooms = {f"bnrepro/{path.name}" for path in (ROOT / "bnrepro").glob("*.py")} - {"bnrepro/errors.py"}
    assert rooms | {f"experiments/{name}.py" for name in ("norms", "rules", "scale_invariance", "wrong_layers")} == {
        *ROOMS
    }
    assert sum(map(len, ROOMS.values())) >= 60
