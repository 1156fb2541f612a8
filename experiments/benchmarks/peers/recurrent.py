"""Bidirectional LSTMs as a PyTorch user writes them: the peers that benchmarks run beside ours, with our parameters.

``nn.LSTM`` has no layer norm, so that a layer-normalized cell is a loop over the steps.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

SUFFIXES = {"forward": "", "backward": "_reverse"}
LSTM_NAMES = {"input_kernel": "weight_ih_l0", "recurrent_kernel": "weight_hh_l0", "bias": "bias_ih_l0"}


class TorchLSTM(nn.Module):
    """``nn.LSTM``, over packed sequences where there are lengths."""

    def __init__(self, params: Mapping[str, Any]):
        """``params`` are those of ``Bidirectional(LSTM)``."""
        super().__init__()
        inputs, width = params["forward"]["input_kernel"].shape
        self.lstm = nn.LSTM(inputs, width // 4, batch_first=True, bidirectional=True)
        for direction, suffix in SUFFIXES.items():
            for ours, theirs in LSTM_NAMES.items():
                getattr(self.lstm, theirs + suffix).data.copy_(_tensor(params[direction][ours].T))
            # A second bias that is only ever added to the first: ours has one.
            second = getattr(self.lstm, f"bias_hh_l0{suffix}").requires_grad_(False)
            second.data.zero_()

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """``(B, T, D)`` -> ``(B, T, 2H)``."""
        if lengths is None:
            return self.lstm(x)[0]
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=x.shape[1])[0]

    def gradients(self) -> dict[str, dict[str, np.ndarray]]:
        """The parameters' gradients by our names."""
        return {
            direction: {ours: _array(getattr(self.lstm, theirs + suffix).grad).T for ours, theirs in LSTM_NAMES.items()}
            for direction, suffix in SUFFIXES.items()
        }


class TorchLayerNormLSTM(nn.Module):
    """:class:`colnorm.LayerNormLSTM` in two directions, the input's product before the loop."""

    def __init__(self, params: Mapping[str, Any], normalize: str, wrap: Callable[[Callable], Callable] = lambda step: step):
        """``wrap`` makes another function of a step's: ``torch.compile``."""
        super().__init__()
        self.normalize = normalize
        self.directions = nn.ModuleDict(
            {
                f"to_{direction}": nn.ParameterDict({name: nn.Parameter(_tensor(value)) for name, value in values.items()})
                for direction, values in params.items()
            }
        )
        self.step = wrap(_gates_step if normalize == "gates" else _output_step)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """``(B, T, D)`` -> ``(B, T, 2H)``."""
        return torch.cat([self._run(direction, x, lengths) for direction in SUFFIXES], -1)

    def gradients(self) -> dict[str, dict[str, np.ndarray]]:
        """The parameters' gradients by our names."""
        return {
            direction: {name: _array(value.grad) for name, value in self._parameters_of(direction).items()}
            for direction in SUFFIXES
        }

    def _parameters_of(self, direction: str) -> Any:
        return self.directions[f"to_{direction}"]

    def _run(self, direction: str, x: Tensor, lengths: Tensor | None) -> Tensor:
        p = self._parameters_of(direction)
        projected = x @ p["input_kernel"]  # (B, T, 4H)
        if self.normalize == "gates":
            projected = layer_norm(projected, projected.shape[-1:], p["input_scale"])
        rest = [p[name] for name in (GATES_NAMES if self.normalize == "gates" else OUTPUT_NAMES)]
        h = c = x.new_zeros(len(x), p["recurrent_kernel"].shape[0])
        nothing = torch.zeros_like(h)
        outputs = [nothing] * x.shape[1]
        steps = list(enumerate((projected + p["bias"]).unbind(1)))
        for t, inputs in steps if direction == "forward" else reversed(steps):
            new_h, new_c = self.step(inputs, h, c, *rest)
            if lengths is None:
                outputs[t], h, c = new_h, new_h, new_c
            else:
                live = (t < lengths)[:, None]
                outputs[t] = torch.where(live, new_h, nothing)
                h, c = torch.where(live, new_h, h), torch.where(live, new_c, c)
        return torch.stack(outputs, 1)


GATES_NAMES = ("recurrent_kernel", "recurrent_scale", "cell_scale", "cell_bias")
OUTPUT_NAMES = ("recurrent_kernel", "output_scale", "output_bias")


def _gates_step(
    inputs: Tensor, h: Tensor, c: Tensor, kernel: Tensor, scale: Tensor, cell_scale: Tensor, cell_bias: Tensor
) -> Any:
    product = h @ kernel
    i, f, g, o = (inputs + layer_norm(product, product.shape[-1:], scale)).chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(layer_norm(c, c.shape[-1:], cell_scale, cell_bias)), c


def _output_step(inputs: Tensor, h: Tensor, c: Tensor, kernel: Tensor, scale: Tensor, bias: Tensor) -> Any:
    i, f, g, o = (inputs + h @ kernel).chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return layer_norm(torch.sigmoid(o) * torch.tanh(c), c.shape[-1:], scale, bias), c


def _tensor(values: Any) -> Tensor:
    return torch.tensor(np.asarray(values))


def _array(tensor: Any) -> np.ndarray:
    return tensor.detach().cpu().numpy()
