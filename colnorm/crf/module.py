"""The chain as learned parameters."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from colnorm.crf.chain import Chain


class LinearChainCRF(nn.Module):
    """Learns a chain: ``LinearChainCRF(num_tags)()`` is the :class:`Chain` of its parameters, for ``colnorm.crf``'s functions.

    Attributes:
      num_tags: K, at least 1.
      param_dtype: of the parameters, floating-point.

    Collection ``params``: ``transitions (K, K)``, ``start (K,)`` and ``end (K,)``, all zero at first.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from colnorm import LinearChainCRF, crf
      >>> layer = LinearChainCRF(3)
      >>> variables = layer.init(jax.random.key(0))
      >>> chain = layer.apply(variables)
      >>> round(float(crf.log_partition(chain, jnp.zeros((1, 2, 3)))[0]), 4)  # log 9: all paths are alike
      2.1972
    """

    num_tags: int
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self) -> Chain:
        """The chain of the parameters as they are now."""
        K = self.num_tags
        if not isinstance(K, int) or K < 1:
            raise ValueError(f"LinearChainCRF: expected an integer num_tags of at least 1, got {K!r}")
        if not jnp.issubdtype(self.param_dtype, jnp.floating):
            raise ValueError(f"LinearChainCRF: expected a floating-point param_dtype, got {jnp.dtype(self.param_dtype)}")

        def parameter(name: str, shape: tuple[int, ...]) -> jax.Array:
            return self.param(name, nn.initializers.zeros, shape, self.param_dtype)

        return Chain(parameter("transitions", (K, K)), parameter("start", (K,)), parameter("end", (K,)))
