"""The CRF's parameters for Flax NNX. The layers come through NNX's own bridge, ``flax.nnx.bridge.ToNNX``."""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from colnorm.crf.chain import Chain


class LinearChainCRF(nnx.Module):
    """The parameters of a linear chain as an NNX module; a call returns the :class:`~colnorm.crf.Chain`.

    As in :class:`colnorm.LinearChainCRF` all scores are zero at first: no path is preferred.

    Attributes:
      transitions, start, end: ``nnx.Param`` of the chain's shapes.

    Raises:
      ValueError: num_tags is no integer of at least 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from colnorm import crf
      >>> from colnorm.nnx import LinearChainCRF
      >>> layer = LinearChainCRF(3)
      >>> loss = lambda layer, emissions, tags: -crf.log_likelihood(layer(), emissions, tags).mean()
      >>> gradient = nnx.grad(loss)(layer, jnp.zeros((1, 2, 3)), jnp.array([[0, 1]]))
      >>> round(float(gradient["transitions"][...][0, 1]), 3)  # its posterior, less one
      -0.889
    """

    def __init__(self, num_tags: int, *, param_dtype: Any = jnp.float32, rngs: nnx.Rngs | None = None):
        chain = Chain.zeros(num_tags)
        self.transitions, self.start, self.end = (nnx.Param(part.astype(param_dtype)) for part in chain)

    def __call__(self) -> Chain:
        return Chain(self.transitions[...], self.start[...], self.end[...])
