"""What sweeps measure of generalization, named in settings as ``bnrepro.experiments.generalization.train_accuracy``."""

from __future__ import annotations

from collections.abc import Mapping

from bnrepro.layers import Array
from bnrepro.measuring import Column, Snapshot, measures


@measures(Column("train_accuracy", "run", "accuracy on training images"))
def train_accuracy(s: Snapshot) -> Mapping[str, Array]:
    """Measure the accuracy on the probe batch of training images as that on test images is: in inference mode."""
    logits, _, _ = s.network.forward(s.params, s.state, s.x, train=False)
    return {"train_accuracy": (logits.argmax(axis=-1) == s.targets.argmax(axis=-1)).mean(axis=-1)}
