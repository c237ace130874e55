"""The network: forms, weights, tracing, training, quantization-aware training."""
