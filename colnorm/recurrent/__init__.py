"""Recurrent layers over padded batches: the modules in ``layers``, the scan and its gradient in ``scan``."""

from colnorm.recurrent.layers import LSTM, Bidirectional, LayerNormLSTM

__all__ = ["LSTM", "Bidirectional", "LayerNormLSTM"]
