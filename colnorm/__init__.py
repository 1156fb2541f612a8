"""Normalization layers and residual networks for JAX/Flax Linen, each proved against independent references."""

from colnorm.normalization import BatchInstanceNorm, BatchNorm, GroupNorm, InstanceNorm, LayerNorm
from colnorm.resnet import ResNet

__all__ = ["BatchInstanceNorm", "BatchNorm", "GroupNorm", "InstanceNorm", "LayerNorm", "ResNet"]
__version__ = "0.1.0"
