"""A diagnostic of Section 3.3's identities, by the import path that ``initialization`` names it by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from bnrepro.diagnostics import gradient_norm
from bnrepro.layers import Array
from bnrepro.measuring import Column, Snapshot, measures

SCALES = {"m3": 1e-3, "m2": 1e-2, "m1": 0.1, "1": 10.0, "2": 100.0, "3": 1e3}
"""Factors a by which weights are multiplied, by the end of their column's name: of their decimal logarithm."""


def _columns() -> Iterator[Column]:
    for end, a in SCALES.items():
        yield Column(f"scaled_own_{end}", "run", f"norm of the gradient of {a:g} W / of W")
        yield Column(f"scaled_others_{end}", "run", f"relative change of all other gradients at {a:g} W")


@measures(*_columns())
def scaled_weights(s: Snapshot) -> Mapping[str, Array]:
    """Measure what a factor a on the weights W of the middle hidden layer does to the gradients of the probe batch.

    - scaled_own: ‖∂L/∂(aW)‖ / ‖∂L/∂W‖, which Section 3.3 has as 1/a with batch norm;
    - scaled_others: ‖G' − G‖ / ‖G‖ of the gradients G of all other parameters, which it has as 0: those of the layers
      behind, since BN((aW)u) = BN(Wu), and of those before, since ∂BN((aW)u)/∂u = ∂BN(Wu)/∂u.
    """
    (*hidden, _), found = s.network.weights, dict[str, Array]()
    layer = hidden[len(hidden) // 2]
    names = s.network.weights[layer]
    for end, a in SCALES.items():
        scaled = {name: p * p.dtype.type(a) if name in names else p for name, p in s.params[layer].items()}
        _, grads = s.gradient({**s.params, layer: scaled})
        own, others, changes = list[Array](), list[Array](), list[Array]()
        for of, gradients in s.grads.items():
            for name, g in gradients.items():
                if of == layer and name in names:
                    own.append(grads[of][name])
                else:
                    others.append(g)
                    changes.append(grads[of][name] - g)
        with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 where a network has died
            found[f"scaled_own_{end}"] = gradient_norm(own) / gradient_norm(s.grads[layer][name] for name in names)
            found[f"scaled_others_{end}"] = gradient_norm(changes) / gradient_norm(others)
    return found
