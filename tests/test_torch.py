"""Agreement with PyTorch, where it is installed: an Inception trains to the same weights."""

from typing import Any

import numpy as np
import pytest

from bnrepro.batchnorm import BatchNorm
from bnrepro.layers import (
    Array,
    AvgPool2D,
    Concatenate,
    Conv2D,
    Dense,
    GlobalAvgPool2D,
    MaxPool2D,
    ReLU,
    he,
    softmax_cross_entropy,
)
from bnrepro.network import IMAGES, Network, inception, stack_runs
from bnrepro.optim import Momentum, Params

torch: Any = pytest.importorskip("torch")
torch.set_num_threads(1)

STEPS, LR, MOMENTUM = 50, 0.02, 0.9
MODULES = [[4, 3, 5, 2, 4, 3], [0, 4, 5, 3, 4, 0], [6, 4, 5, 3, 4, 3]]


class Twin:
    """The same network by PyTorch's functions, with its own gradients and its own optimiser."""

    def __init__(self, network: Network, params: Params) -> None:
        self.network = network
        self.params = {
            layer: {name: torch.tensor(self.laid_out(name, a[0]), requires_grad=True) for name, a in arrays.items()}
            for layer, arrays in params.items()
        }
        flat = [p for arrays in self.params.values() for p in arrays.values()]
        self.sgd = torch.optim.SGD(flat, lr=LR, momentum=MOMENTUM)
        self.averages = {name: [torch.zeros(1), torch.ones(1)] for name in network.layers}

    @staticmethod
    def laid_out(name: str, a: Array) -> Array:
        """Lay out parameters of one run as PyTorch does: W (K, D) of a dense layer, all but W along one axis."""
        return a.reshape(-1) if name != "W" else np.ascontiguousarray(a.T) if a.ndim == 2 else a

    def __call__(self, x: Array) -> Any:
        outputs = {IMAGES: torch.tensor(x)}
        for name, layer in self.network.layers.items():
            entering = [outputs[source] for source in self.network.inputs[name]]
            outputs[name] = self.apply(layer, self.params[name], *entering)
        return outputs[name]

    def apply(self, layer: Any, p: dict[str, Any], x: Any, *others: Any) -> Any:
        of = torch.nn.functional
        match layer:
            case Conv2D():
                return of.conv2d(x, p["W"], p.get("b"), layer.stride, layer.padding)
            case BatchNorm():
                return of.batch_norm(x, None, None, p["gamma"], p["beta"], training=True, eps=layer.eps)
            case ReLU():
                return of.relu(x)
            case MaxPool2D():
                return of.max_pool2d(x, layer.size, layer.stride, layer.padding)
            case AvgPool2D():
                return of.avg_pool2d(x, layer.size, layer.stride, layer.padding, count_include_pad=False)
            case GlobalAvgPool2D():
                return of.adaptive_avg_pool2d(x, 1).flatten(1)
            case Concatenate():
                return torch.cat([x, *others], dim=1)
            case Dense():
                return of.linear(x, p["W"], p["b"])
        raise AssertionError(layer)

    def step(self, x: Array, labels: Array) -> float:
        self.sgd.zero_grad()
        loss = torch.nn.functional.cross_entropy(self(x), torch.tensor(labels))
        loss.backward()
        self.sgd.step()
        return float(loss.detach())


@pytest.mark.parametrize("norm", [None, BatchNorm], ids=["no norm", "batch norm"])
def test_an_inception_trains_as_pytorch_trains_it(norm: Any) -> None:
    rng, network = np.random.default_rng(0), inception(6, MODULES, 10, he, ReLU, norm)
    params, state = (stack_runs([tree], np.dtype(float)) for tree in network.init(rng, (3, 12, 12)))
    twin, optimizer = Twin(network, params), Momentum(weight_decay=0, momentum=MOMENTUM)
    velocity, lr = optimizer.init(params), np.array([LR])
    for _ in range(STEPS):
        x, labels = rng.standard_normal((16, 3, 12, 12)), rng.integers(0, 10, 16)
        logits, state, backward = network.forward(params, state, x[np.newaxis], train=True)
        loss, dlogits = softmax_cross_entropy(logits, np.eye(10)[labels][np.newaxis])
        optimizer.update(params, backward(dlogits), velocity, lr, network.weights)
        assert twin.step(x, labels) == pytest.approx(loss[0], rel=1e-9)
    for layer, arrays in params.items():
        for name, a in arrays.items():
            theirs = twin.params[layer][name].detach().numpy()
            np.testing.assert_allclose(
                twin.laid_out(name, a[0]), theirs, rtol=1e-9, atol=1e-9, err_msg=f"{layer} {name}"
            )
