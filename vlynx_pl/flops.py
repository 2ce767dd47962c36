"""Floating-point operations of a training step, and what GPUs can do per second."""

from typing import Final

import torch
from torch import Tensor, nn

PEAK_FLOPS: Final = {
    "NVIDIA H200": 989e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA GeForce RTX 4090": 165e12,
    "NVIDIA GeForce RTX 3090": 71e12,
}
"""Name of a GPU in torch → its peak in bf16, from NVIDIA's data sheets: operations per second of
dense matrix products (without sparsity) that are summed in float32."""


def peak_flops(device: torch.device) -> float | None:
    """Return the peak of a GPU in operations per second, or None if it is not known."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return PEAK_FLOPS.get(name)


class LinearFlops:
    """Counts the operations of all linear layers in a forward pass and its backward pass.

    The backward pass is counted with the forward pass: one more product for the gradient of the
    input, and one for that of the weight, where these are computed. So a frozen layer costs less
    than a trained one, and what is recomputed in the backward pass does not count. Attention scores
    and convolutions do not count either.

    Args:
        model: counted from now on, until :meth:`stop`.
    """

    def __init__(self, model: nn.Module) -> None:
        self.total = 0
        layers = (module for module in model.modules() if isinstance(module, nn.Linear))
        self._hooks = [layer.register_forward_hook(self._add) for layer in layers]

    def stop(self) -> None:
        """Stop counting."""
        for hook in self._hooks:
            hook.remove()

    def _add(self, layer: nn.Linear, inputs: tuple[Tensor], output: Tensor) -> None:
        gradients = inputs[0].requires_grad + layer.weight.requires_grad
        products = 1 + gradients * torch.is_grad_enabled()
        self.total += 2 * layer.in_features * output.numel() * products
