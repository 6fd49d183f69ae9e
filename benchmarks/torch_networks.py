"""This package's networks as PyTorch modules, to compare with."""

from typing import Any

import numpy as np

from restore_jax.models import winograd
from restore_jax.models.layers import NORM_EPSILON


def torch_network(metadata: dict[str, Any], params: Any, stats: Any) -> Any:
    """The network as a `torch.nn.Module`: f32[b, C, H, W] in [0, 1] to logits f32[b, K].

    Args:
      metadata: whose ``normalisation`` says how images are normalised.
      params, stats: the network's, as trained or as `Network.fold` gives them.
    """
    import torch
    from torch import nn
    from torch.nn import functional

    mean, std = (metadata["normalisation"][name] for name in ("mean", "std"))
    architecture = metadata.get("architecture", "resnet8")

    def tensor(array: Any) -> Any:
        return torch.from_numpy(np.array(array, np.float32))

    def convolution(kernel: Any, bias: Any = None, stride: int = 1, padding: int = 0) -> Any:
        height, width, cin, cout = kernel.shape
        layer = nn.Conv2d(cin, cout, (height, width), stride, padding, bias=bias is not None)
        layer.weight.data = tensor(np.transpose(kernel, (3, 2, 0, 1)))
        if bias is not None:
            layer.bias.data = tensor(bias)
        return layer

    def linear(head: Any) -> Any:
        layer = nn.Linear(*head["kernel"].shape, bias="bias" in head)
        layer.weight.data = tensor(np.transpose(head["kernel"]))
        if "bias" in head:
            layer.bias.data = tensor(head["bias"])
        return layer

    class Sign(nn.Module):
        def __init__(self, sign: Any):
            super().__init__()
            self.register_buffer("sign", tensor(sign).view(-1, 1, 1))

        def forward(self, x: Any) -> Any:
            return x * self.sign

    def conv_norm(values: Any, stats: Any, stride: int = 1, pool: bool = False) -> Any:
        kernel, bias = values["conv"]["kernel"], values["conv"].get("bias")
        kernel = winograd.plain(kernel) if kernel.ndim == 3 else kernel
        layers = [convolution(kernel, bias, stride, (kernel.shape[0] - 1) // 2)]
        if pool:
            layers.append(nn.MaxPool2d(2))
        if "sign" in values:
            layers.append(Sign(values["sign"]))
        if "norm" in values:
            norm = nn.BatchNorm2d(kernel.shape[-1], eps=NORM_EPSILON)
            norm.weight.data = tensor(values["norm"]["scale"])
            norm.bias.data = tensor(values["norm"]["bias"])
            norm.running_mean = tensor(stats["norm"]["mean"])
            norm.running_var = tensor(stats["norm"]["var"])
            layers.append(norm)
        return nn.Sequential(*layers)

    class PooledStage(nn.Module):
        def __init__(self, values: Any, stats: Any):
            super().__init__()
            self.first = conv_norm(values["first"], stats.get("first"), pool=True)
            self.second = conv_norm(values["second"], stats.get("second"))

        def forward(self, x: Any) -> Any:
            x = functional.relu(self.first(x))
            return x + functional.relu(self.second(x))

    class Block(nn.Module):
        def __init__(self, values: Any, stats: Any):
            super().__init__()
            # A later stage begins with a block that projects its shortcut, at stride 2.
            projects = "shortcut" in values
            stride = 2 if projects else 1
            self.first = conv_norm(values["first"], stats.get("first"), stride)
            self.second = conv_norm(values["second"], stats.get("second"))
            self.shortcut = nn.Identity()
            if projects:
                self.shortcut = conv_norm(values["shortcut"], stats.get("shortcut"), stride)

        def forward(self, x: Any) -> Any:
            y = self.second(functional.relu(self.first(x)))
            return functional.relu(y + self.shortcut(x))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", tensor(mean).view(-1, 1, 1))
            self.register_buffer("std", tensor(std).view(-1, 1, 1))
            stem = stats.get("stem", {})
            self.pooled = "kernel" in stem
            self.largest = self.pooled and not architecture.endswith(("_mean", "_narrow"))
            if self.pooled:
                self.stem = convolution(stem["kernel"], params["stem"]["bias"])
            else:
                self.stem = conv_norm(params["stem"], stem)
            stage = PooledStage if self.pooled else Block
            running = stats.get("stages", {})
            stages = sorted(params["stages"].items())
            self.stages = nn.Sequential(*(stage(f, running.get(k, {})) for k, f in stages))
            self.head = linear(params["head"])

        def forward(self, x: Any) -> Any:
            x = (x - self.mean) / self.std
            if self.pooled:
                x = functional.pad(x, (0, 1, 0, 1))
            x = self.stages(functional.relu(self.stem(x)))
            return self.head(0.125 * x.amax((2, 3)) if self.largest else x.mean((2, 3)))

    return Net().eval()
