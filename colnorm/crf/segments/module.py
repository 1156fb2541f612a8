"""The chain over segments as learned parameters."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from colnorm.crf.segments.chain import SegmentChain


class SemiMarkovCRF(nn.Module):
    """Learns a chain: ``SemiMarkovCRF(num_labels, longest)()`` is the :class:`SegmentChain` of its parameters.

    Attributes:
      num_labels: Y, at least 1.
      longest: L, the most tokens of a segment, at least 1.
      param_dtype: of the parameters, floating-point.

    Collection ``params``: ``transitions (Y, Y)``, ``start (Y,)``, ``end (Y,)`` and ``durations (L, Y)``, all zero at first.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from colnorm.crf import segments
      >>> layer = segments.SemiMarkovCRF(num_labels=3, longest=8)
      >>> chain = layer.apply(layer.init(jax.random.key(0)))
      >>> chain.durations.shape
      (8, 3)
    """

    num_labels: int
    longest: int
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self) -> SegmentChain:
        """The chain of the parameters as they are now."""
        Y, L = self.num_labels, self.longest
        for what, number in (("num_labels", Y), ("longest", L)):
            if not isinstance(number, int) or number < 1:
                raise ValueError(f"SemiMarkovCRF: expected an integer {what} of at least 1, got {number!r}")
        if not jnp.issubdtype(self.param_dtype, jnp.floating):
            raise ValueError(f"SemiMarkovCRF: expected a floating-point param_dtype, got {jnp.dtype(self.param_dtype)}")
        shapes = {"transitions": (Y, Y), "start": (Y,), "end": (Y,), "durations": (L, Y)}
        zeros = nn.initializers.zeros
        return SegmentChain(**{name: self.param(name, zeros, shape, self.param_dtype) for name, shape in shapes.items()})
