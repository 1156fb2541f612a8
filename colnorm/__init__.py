"""Normalization, recurrences and CRFs for JAX/Flax Linen, each proved against independent references."""

from colnorm import crf
from colnorm.crf import LinearChainCRF
from colnorm.normalization import BatchInstanceNorm, BatchNorm, GroupNorm, InstanceNorm, LayerNorm
from colnorm.recurrent import LSTM, Bidirectional, LayerNormLSTM
from colnorm.resnet import ResNet
from colnorm.tagger import Tagger

__all__ = [
    "LSTM",
    "BatchInstanceNorm",
    "BatchNorm",
    "Bidirectional",
    "GroupNorm",
    "InstanceNorm",
    "LayerNorm",
    "LayerNormLSTM",
    "LinearChainCRF",
    "ResNet",
    "Tagger",
    "crf",
]
__version__ = "0.2.0.dev0"
