"""The same residual network as a PyTorch user writes it: the peer that benchmarks run beside ours."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """conv - norm - relu - conv - norm - add - relu, shortcuts padded with zero channels."""

    def __init__(self, inputs: int, features: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, features, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(features)
        self.stride, self.missing = stride, features - inputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        if self.missing:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.missing))
        return functional.relu(x + y)


class TorchResNet(nn.Module):
    """Depth 6n + 2 with batch normalization; submodules are named as in :class:`colnorm.ResNet`."""

    def __init__(self, n: int, num_classes: int):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        blocks, inputs = {}, 16
        for stage in range(3):
            for block in range(n):
                features = 16 * 2**stage
                blocks[f"stage{stage + 1}_block{block + 1}"] = Block(inputs, features, 2 if stage and not block else 1)
                inputs = features
        self.blocks = nn.ModuleDict(blocks)
        self.classifier = nn.Linear(64, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:  # (N, 3, H, W)
        x = functional.relu(self.norm(self.conv(images)))
        for block in self.blocks.values():
            x = block(x)
        return self.classifier(x.mean((2, 3)))

    @torch.no_grad()
    def load_flax(self, params: Mapping[str, Any]) -> None:
        """Takes over the parameters of a :class:`colnorm.ResNet` with the same n."""
        for name, module in self.named_modules():
            values: Any = params
            for part in name.removeprefix("blocks.").split("."):
                values = values.get(part, {})
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(torch.tensor(np.array(values["scale"])))
                module.bias.copy_(torch.tensor(np.array(values["bias"])))
            elif isinstance(module, nn.Conv2d):
                module.weight.copy_(torch.tensor(np.array(values["kernel"])).permute(3, 2, 0, 1))
            elif isinstance(module, nn.Linear):
                module.weight.copy_(torch.tensor(np.array(values["kernel"])).T)
                module.bias.copy_(torch.tensor(np.array(values["bias"])))
