"""Run by the compiler environment's Python: compile and simulate a tiny network.

The deploy step runs the BModel on the chip simulator and compares it with the graph, so its success
proves the compiler, the runtime library and the simulator together.
"""

import subprocess

import numpy as np
import torch

network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()).eval()
example = torch.linspace(-1, 1, 3 * 8 * 8).reshape(1, 3, 8, 8)
with torch.no_grad():
    torch.jit.trace(network, example).save("tiny.pt")
np.savez("in.npz", **{"input": example.numpy()})
subprocess.run(
    [
        "model_transform.py",
        "--model_name",
        "tiny",
        "--model_def",
        "tiny.pt",
        "--input_shapes",
        "[[1,3,8,8]]",
        "--test_input",
        "in.npz",
        "--test_result",
        "top.npz",
        "--mlir",
        "tiny.mlir",
    ],
    check=True,
)
subprocess.run(
    [
        "model_deploy.py",
        "--mlir",
        "tiny.mlir",
        "--quantize",
        "F32",
        "--chip",
        "bm1684x",
        "--test_input",
        "in.npz",
        "--test_reference",
        "top.npz",
        "--tolerance",
        "0.99,0.99",
        "--model",
        "tiny.bmodel",
    ],
    check=True,
)
