"""The other sides of the benchmarks: the same networks as a PyTorch user writes them, and cuDNN's LSTM."""
