"""Columns of diagnostics, which are what they declare and clash with none."""

import numpy as np
import pytest
from snapshots import NETWORKS, take

from bnrepro import measuring
from bnrepro.diagnostics import DIAGNOSTICS
from bnrepro.errors import InputError
from bnrepro.measuring import Column, Diagnostic, check_columns


def declares(*columns: Column) -> Diagnostic:
    return Diagnostic(columns, lambda snapshot: {})


@pytest.mark.parametrize(
    ("diagnostics", "problem"),
    [
        ({"mine.x": [Column("train_loss", "run", "")]}, "mine.x: column train_loss of each run is every run's already"),
        ({"mine.x": [Column("Test_Accuracy", "run", "")]}, "mine.x: column Test_Accuracy of each run is every run's"),
        ({"mine.x": [Column("step", "layer", "")]}, "mine.x: column step of each layer is every table's already"),
        ({"mine.x": [Column("run_id", "unit", "")]}, "mine.x: column run_id of each unit is every table's already"),
        ({"mine.x": [Column("lr", "run", "")]}, "mine.x: column lr of each run is every table's already"),
        (
            {"mine.x": [Column("a", "run", "")], "mine.y": [Column("A", "run", "")]},
            "mine.y: column A of each run is mine.x's already",
        ),
        ({"mine.x": [Column("a", "run", ""), Column("a", "run", "")]}, "mine.x: column a of each run is mine.x's"),
        ({"mine.x": [Column("a b", "run", "")]}, "mine.x: column 'a b' must be ASCII letters, digits and _"),
        ({"mine.x": [Column('a"', "run", "")]}, "mine.x: column 'a\"' must be"),
        ({"mine.x": [Column("", "run", "")]}, "mine.x: column '' must be"),
        ({"mine.x": [Column("é", "run", "")]}, "mine.x: column 'é' must be"),
    ],
)
def test_columns_that_clash_or_cannot_be_stored_are_refused(diagnostics: dict[str, list[Column]], problem: str) -> None:
    with pytest.raises(InputError) as error:
        check_columns({name: declares(*columns) for name, columns in diagnostics.items()}, taken=["lr"])
    assert str(error.value).startswith(f"diagnostics={problem}")


def test_columns_of_other_levels_do_not_clash() -> None:
    check_columns(DIAGNOSTICS, taken=["lr"])
    check_columns({"mine.x": declares(Column("a", "run", ""), Column("a", "layer", ""), Column("a", "unit", ""))})


@pytest.mark.parametrize(
    ("column", "shape", "problem"),
    [
        (Column("a", "run", ""), (3, 1), "column a has shape (3, 1); of each run it must be (3,)"),
        (Column("a", "run", ""), (), "column a has shape (); of each run it must be (3,)"),
        (Column("a", "layer", ""), (3,), "column a has shape (3,); of each layer it must be (3, 3) or (3, 4)"),
        (Column("a", "layer", ""), (3, 5), "column a has shape (3, 5); of each layer it must be (3, 3) or (3, 4)"),
        (Column("a", "unit", ""), (3, 5), "column a has shape (3, 5); of each unit it must be (3, 6)"),
        (Column("b", "run", ""), (3,), "gives the columns a; it declares b"),
    ],
)
def test_what_a_diagnostic_gives_is_what_it_declares(column: Column, shape: tuple[int, ...], problem: str) -> None:
    diagnostic = Diagnostic((column,), lambda snapshot: {"a": np.zeros(shape)})
    with pytest.raises(InputError) as error:
        list(measuring.read("mine.x", diagnostic, take(NETWORKS["relu"])))
    assert str(error.value) == f"diagnostics=mine.x: {problem}"


def test_the_label_of_an_axis_has_the_unit_in_brackets() -> None:
    assert Column("a", "run", "loss", "nats").label == "loss (nats)"
    assert Column("a", "run", "accuracy").label == "accuracy"
