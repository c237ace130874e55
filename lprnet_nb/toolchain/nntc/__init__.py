"""TPU-NNTC, the original compiler, behind the same interface as TPU-MLIR."""
