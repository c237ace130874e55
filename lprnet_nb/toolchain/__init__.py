"""Compilers: TPU-MLIR here, TPU-NNTC in `nntc/`; `inside/` runs in the compiler's Python."""
