"""Small networks of the kinds that are ported, with random weights: what the emulator is proved on.

Each is drawn from the layout that its name refers to, cut down so that the vendor's simulator takes
seconds an image: what counts is which operations stand beside one another, not what is recognized.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import ParameterError
from ..model.lprnet.layers import LPRNet

CLASSES = 68


@dataclass(frozen=True)
class Example:
    """A network to prove.

    Parameters
    ----------
    build
        Makes it, in eval mode or not; the weights are torch's own random ones.
    height, width
        Of its input, three channels.
    about
        What it stands for, in a few words.
    """

    build: Callable[[], nn.Module]
    height: int
    width: int
    about: str

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of one input, batch 1."""
        return (1, 3, self.height, self.width)


class _Graph(nn.Module):
    """Layers by name and a function that joins them."""

    def __init__(self, join: Callable[..., torch.Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.join = join
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.join(self, x)


def _conv(
    inner: int,
    outer: int,
    kernel: int | tuple[int, int] = 3,
    stride: int | tuple[int, int] = 1,
    act: nn.Module | None = None,
    groups: int = 1,
    padding: int | tuple[int, int] | None = None,
) -> nn.Sequential:
    """Convolution, batch norm and activation, padded to the same size unless said otherwise."""
    sizes = (kernel, kernel) if isinstance(kernel, int) else kernel
    pads = (sizes[0] // 2, sizes[1] // 2) if padding is None else padding
    layers = [
        nn.Conv2d(inner, outer, kernel, stride, pads, groups=groups, bias=False),
        nn.BatchNorm2d(outer),
    ]
    return nn.Sequential(*layers, *([] if act is None else [act]))


def _squeeze(channels: int, gate: nn.Module) -> nn.Module:
    """Squeeze and excitation (arXiv 1709.01507)."""
    return _Graph(
        lambda m, x: x * m.gate(x),
        gate=nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, max(4, channels // 4), 1),
            nn.ReLU(),
            nn.Conv2d(max(4, channels // 4), channels, 1),
            gate,
        ),
    )


def _rows(x: torch.Tensor) -> torch.Tensor:
    """One step of a sequence for each column: the mean over rows, ``[N, C, W]``."""
    return F.avg_pool2d(x, (x.shape[2], 1)).squeeze(2)


def _head(channels: int, classes: int) -> nn.Module:
    """Logits ``[N, classes, W]`` by a convolution, as a CTC head has them."""
    return _Graph(
        lambda m, x: m.out(_rows(x).unsqueeze(2)).squeeze(2), out=nn.Conv2d(channels, classes, 1)
    )


def _residual(inner: int, outer: int, stride: int | tuple[int, int] = 1) -> nn.Module:
    """Basic block of ResNet (arXiv 1512.03385)."""
    same = inner == outer and stride == 1
    return _Graph(
        lambda m, x: F.relu(m.two(m.one(x)) + m.skip(x)),
        one=_conv(inner, outer, 3, stride, nn.ReLU()),
        two=_conv(outer, outer),
        skip=nn.Identity() if same else _conv(inner, outer, 1, stride),
    )


def _resnet() -> nn.Module:
    return nn.Sequential(
        _conv(3, 16, 3, 1, nn.ReLU()),
        nn.MaxPool2d(3, 2, 1),
        _residual(16, 16),
        _residual(16, 32, 2),
        _residual(32, 48, (2, 1)),
        _head(48, 37),
    )


def _inverted(
    inner: int,
    outer: int,
    expand: int,
    stride: int | tuple[int, int],
    act: Callable[[], nn.Module],
    gate: nn.Module | None = None,
    kernel: int = 3,
) -> nn.Module:
    """Inverted residual (arXiv 1801.04381), with a gate as MobileNetV3 has it (1905.02244)."""
    body = nn.Sequential(
        _conv(inner, expand, 1, 1, act()),
        _conv(expand, expand, kernel, stride, act(), groups=expand),
        nn.Identity() if gate is None else _squeeze(expand, gate),
        _conv(expand, outer, 1),
    )
    if stride == 1 and inner == outer:
        return _Graph(lambda m, x: x + m.body(x), body=body)
    return body


def _mobilenet_v2() -> nn.Module:
    return nn.Sequential(
        _conv(3, 16, 3, 2, nn.ReLU6()),
        _inverted(16, 16, 48, 1, nn.ReLU6),
        _inverted(16, 24, 64, 2, nn.ReLU6),
        _inverted(24, 24, 72, 1, nn.ReLU6),
        _inverted(24, 32, 72, (2, 1), nn.ReLU6),
        _head(32, 37),
    )


def _mobilenet_v3() -> nn.Module:
    return nn.Sequential(
        _conv(3, 16, 3, 2, nn.Hardswish()),
        _inverted(16, 16, 32, 1, nn.ReLU, nn.Hardsigmoid()),
        _inverted(16, 24, 64, 2, nn.ReLU),
        _inverted(24, 32, 72, (2, 1), nn.Hardswish, nn.Hardsigmoid(), 5),
        _inverted(32, 32, 96, 1, nn.Hardswish, nn.Hardsigmoid(), 5),
        _head(32, 37),
    )


def _shuffle(x: torch.Tensor, groups: int) -> torch.Tensor:
    n, c, h, w = x.shape
    return x.reshape(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def _shuffle_unit(channels: int) -> nn.Module:
    """Unit of ShuffleNetV2 (arXiv 1807.11164) without a stride."""
    half = channels // 2
    return _Graph(
        lambda m, x: _shuffle(torch.cat([x[:, :half], m.body(x[:, half:])], 1), 2),
        body=nn.Sequential(
            _conv(half, half, 1, 1, nn.ReLU()),
            _conv(half, half, 3, 1, groups=half),
            _conv(half, half, 1, 1, nn.ReLU()),
        ),
    )


def _shuffle_down(inner: int, outer: int) -> nn.Module:
    half = outer // 2
    return _Graph(
        lambda m, x: _shuffle(torch.cat([m.left(x), m.right(x)], 1), 2),
        left=nn.Sequential(
            _conv(inner, inner, 3, 2, groups=inner), _conv(inner, half, 1, 1, nn.ReLU())
        ),
        right=nn.Sequential(
            _conv(inner, half, 1, 1, nn.ReLU()),
            _conv(half, half, 3, 2, groups=half),
            _conv(half, half, 1, 1, nn.ReLU()),
        ),
    )


def _shufflenet_v1() -> nn.Module:
    """Group convolutions with a shuffle between them (arXiv 1707.01083)."""
    unit = [
        _Graph(
            lambda m, x: F.relu(x + m.out(m.depth(_shuffle(m.into(x), 3)))),
            into=_conv(48, 24, 1, 1, nn.ReLU(), groups=3),
            depth=_conv(24, 24, 3, 1, groups=24),
            out=_conv(24, 48, 1, 1, groups=3),
        )
        for _ in range(2)
    ]
    return nn.Sequential(_conv(3, 48, 3, 2, nn.ReLU()), nn.MaxPool2d(3, 2, 1), *unit, _head(48, 37))


def _shufflenet_v2() -> nn.Module:
    return nn.Sequential(
        _conv(3, 24, 3, 2, nn.ReLU()),
        _shuffle_down(24, 48),
        _shuffle_unit(48),
        _shuffle_unit(48),
        _head(48, 37),
    )


def _fire(inner: int, squeezed: int, outer: int) -> nn.Module:
    """Fire module of SqueezeNet (arXiv 1602.07360)."""
    return _Graph(
        lambda m, x: torch.cat([m.one(s := m.squeeze(x)), m.three(s)], 1),
        squeeze=nn.Sequential(nn.Conv2d(inner, squeezed, 1), nn.ReLU()),
        one=nn.Sequential(nn.Conv2d(squeezed, outer, 1), nn.ReLU()),
        three=nn.Sequential(nn.Conv2d(squeezed, outer, 3, padding=1), nn.ReLU()),
    )


def _squeezenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, stride=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        _fire(24, 8, 16),
        _fire(32, 8, 16),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        _fire(32, 12, 24),
        nn.Conv2d(48, 30, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def _crnn() -> nn.Module:
    """CRNN (arXiv 1507.05717) up to its recurrent layers; a linear one reads the steps."""
    stack = nn.Sequential(
        _conv(3, 16, 3, 1, nn.ReLU()),
        nn.MaxPool2d(2, 2),
        _conv(16, 32, 3, 1, nn.ReLU()),
        nn.MaxPool2d(2, 2),
        _conv(32, 48, 3, 1, nn.ReLU()),
        _conv(48, 48, 3, 1, nn.ReLU()),
        nn.MaxPool2d((2, 2), (2, 1), (0, 1)),
        _conv(48, 64, 3, 1, nn.ReLU()),
        nn.MaxPool2d((2, 2), (2, 1), (0, 1)),
        _conv(64, 64, 2, 1, nn.ReLU(), padding=0),
    )
    return _Graph(
        lambda m, x: m.out(m.stack(x).squeeze(2).permute(0, 2, 1)),
        stack=stack,
        out=nn.Linear(64, 37),
    )


def _ppocr() -> nn.Module:
    """PP-OCR's recognition (PP-LCNet, arXiv 2109.15099), its recurrent neck left out."""

    def separable(
        inner: int, outer: int, stride: int | tuple[int, int], gate: bool, kernel: int = 3
    ) -> nn.Module:
        return nn.Sequential(
            _conv(inner, inner, kernel, stride, nn.Hardswish(), groups=inner),
            _squeeze(inner, nn.Hardsigmoid()) if gate else nn.Identity(),
            _conv(inner, outer, 1, 1, nn.Hardswish()),
        )

    return _Graph(
        lambda m, x: m.out(F.avg_pool2d(m.stack(x), (2, 2)).squeeze(2).permute(0, 2, 1)),
        stack=nn.Sequential(
            _conv(3, 16, 3, 2, nn.Hardswish()),
            separable(16, 32, 1, False),
            separable(32, 48, (2, 1), False),
            separable(48, 48, (2, 1), True, 5),
            separable(48, 64, (2, 1), True, 5),
        ),
        out=nn.Linear(64, 97),
    )


def _vgg() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 48, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(48 * 4 * 8, 64),
        nn.ReLU(),
        nn.Linear(64, 40),
    )


def _upsample() -> nn.Module:
    """A pyramid put together again, upsampled, added, joined (as DB's, arXiv 1911.08947)."""
    return _Graph(
        lambda m, x: m.out(
            torch.cat(
                [
                    two := m.two(a := m.one(m.stem(x)))
                    + F.interpolate(m.side(b := m.down(a)), scale_factor=2),
                    F.interpolate(m.deep(b), scale_factor=2),
                    two,
                ],
                1,
            )
        ),
        stem=_conv(3, 16, 3, 2, nn.ReLU()),
        one=_conv(16, 24, 3, 2, nn.ReLU()),
        down=_conv(24, 32, 3, 2, nn.ReLU()),
        two=_conv(24, 16, 1),
        side=_conv(32, 16, 1),
        deep=_conv(32, 8, 1, 1, nn.ReLU()),
        out=nn.Sequential(_conv(40, 8, 3, 1, nn.ReLU()), nn.Conv2d(8, 1, 1), nn.Sigmoid()),
    )


def _efficientnet() -> nn.Module:
    return nn.Sequential(
        _conv(3, 16, 3, 2, nn.SiLU()),
        _inverted(16, 24, 48, 2, nn.SiLU, nn.Sigmoid()),
        _inverted(24, 24, 72, 1, nn.SiLU, nn.Sigmoid(), 5),
        _inverted(24, 32, 72, (2, 1), nn.SiLU, nn.Sigmoid()),
        _head(32, 37),
    )


def _darknet() -> nn.Module:
    """A stage of YOLOv4's backbone (arXiv 2004.10934): split, residual, joined, Mish throughout."""
    return nn.Sequential(
        _conv(3, 16, 3, 2, nn.Mish()),
        _conv(16, 32, 3, 2, nn.Mish()),
        _Graph(
            lambda m, x: m.out(torch.cat([(a := m.right(x)) + m.body(a), m.left(x)], 1)),
            left=_conv(32, 16, 1, 1, nn.Mish()),
            right=_conv(32, 16, 1, 1, nn.Mish()),
            body=nn.Sequential(_conv(16, 16, 1, 1, nn.Mish()), _conv(16, 16, 3, 1, nn.Mish())),
            out=_conv(32, 32, 1, 1, nn.Mish()),
        ),
        _head(32, 37),
    )


def _yolo_tiny() -> nn.Module:
    """As YOLO's small ones: LeakyReLU, a pool of stride 1, a map upsampled and joined."""
    leaky = lambda: nn.LeakyReLU(0.1)  # noqa: E731
    return _Graph(
        lambda m, x: m.out(
            torch.cat([F.interpolate(m.deep(a := m.stem(x)), scale_factor=2), a], 1)
        ),
        stem=nn.Sequential(
            _conv(3, 16, 3, 1, leaky()),
            nn.MaxPool2d(2),
            _conv(16, 24, 3, 1, leaky()),
            nn.MaxPool2d(2),
        ),
        deep=nn.Sequential(
            nn.MaxPool2d(2),
            _conv(24, 32, 3, 1, leaky()),
            nn.ZeroPad2d((0, 1, 0, 1)),
            nn.MaxPool2d(2, 1),
            _conv(32, 16, 1, 1, leaky()),
        ),
        out=nn.Conv2d(40, 18, 1),
    )


def _densenet() -> nn.Module:
    grow = [_conv(16 + 8 * k, 8, 3, 1, nn.ReLU()) for k in range(3)]

    def join(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        for layer in m.get_submodule("grow").children():
            x = torch.cat([x, layer(x)], 1)
        return x

    return nn.Sequential(
        _conv(3, 16, 3, 2, nn.ReLU()),
        _Graph(join, grow=nn.ModuleList(grow)),
        _conv(40, 24, 1, 1, nn.ReLU()),
        nn.AvgPool2d(2),
        _head(24, 37),
    )


def _inception() -> nn.Module:
    return nn.Sequential(
        _conv(3, 24, 3, 2, nn.ReLU()),
        _Graph(
            lambda m, x: torch.cat([m.one(x), m.wide(x), m.pooled(F.avg_pool2d(x, 3, 1, 1))], 1),
            one=_conv(24, 16, 1, 1, nn.ReLU()),
            wide=nn.Sequential(
                _conv(24, 12, (1, 3), 1, nn.ReLU()), _conv(12, 16, (3, 1), 1, nn.ReLU())
            ),
            pooled=_conv(24, 16, 1, 1, nn.ReLU()),
        ),
        nn.MaxPool2d(2),
        _head(48, 37),
    )


def _small_basic(inner: int, outer: int, act: Callable[[], nn.Module]) -> nn.Module:
    """The small basic block of LPRNet (arXiv 1806.10447)."""
    quarter = outer // 4
    return nn.Sequential(
        nn.Conv2d(inner, quarter, 1),
        act(),
        nn.Conv2d(quarter, quarter, (3, 1), padding=(1, 0)),
        act(),
        nn.Conv2d(quarter, quarter, (1, 3), padding=(0, 1)),
        act(),
        nn.Conv2d(quarter, outer, 1),
        nn.BatchNorm2d(outer),
        act(),
    )


def _context(x: torch.Tensor) -> torch.Tensor:
    """A map of LPRNet's global context: divided by the mean of its squares."""
    return x / x.square().mean()


def _korean() -> nn.Module:
    """A Korean fork of LPRNet: 50x100, 19 steps, Mish; its spatial transformer left out.

    The widest map has the fork's own size, for a mean over 256 x 9 x 19 values.
    """

    def join(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        stem = m.get_submodule("stem")(x)
        first = m.get_submodule("first")(stem)
        deep = m.get_submodule("second")(F.max_pool2d(first, 5, 5))
        maps = [F.avg_pool2d(stem, 5, 5), F.avg_pool2d(first, 5, 5), deep]
        return m.get_submodule("container")(torch.cat([*map(_context, maps)], 1)).mean(2)

    return _Graph(
        join,
        stem=_conv(3, 24, 3, 1, nn.Mish(), padding=0),
        first=_small_basic(24, 32, nn.Mish),
        second=_small_basic(32, 256, nn.Mish),
        container=nn.Conv2d(312, 40, 1),
    )


def _vietnamese(norm: bool) -> nn.Module:
    """A Vietnamese fork of LPRNet: 40x100, 37 classes, LeakyReLU, an L2 norm with gains."""

    def join(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        a = m.get_submodule("first")(x)
        b = m.get_submodule("second")(F.max_pool2d(a, 3, 2))
        side = F.avg_pool2d(a, 3, 2)
        if norm:
            side = side / side.square().sum(1, keepdim=True).sqrt() * m.get_parameter("gain")
        return m.get_submodule("out")(torch.cat([side, b], 1)).mean(2)

    leaky = lambda: nn.LeakyReLU(0.1)  # noqa: E731
    network = _Graph(
        join,
        first=nn.Sequential(_conv(3, 24, 3, 2, leaky()), _small_basic(24, 32, leaky)),
        second=_small_basic(32, 48, leaky),
        out=nn.Conv2d(80, 37, 1),
    )
    network.register_parameter("gain", nn.Parameter(torch.full((1, 32, 1, 1), 5.0)))
    return network


def _svtr() -> nn.Module:
    """A mixing block of SVTR (arXiv 2205.00159): layer norm, attention over the steps."""

    def join(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        steps = _rows(m.get_submodule("stem")(x)).permute(0, 2, 1)
        q, k, v = (m.get_submodule(name)(m.get_submodule("norm")(steps)) for name in "qkv")
        mixed = torch.softmax(torch.matmul(q, k.transpose(1, 2)) / 6, -1)
        return m.get_submodule("out")(steps + torch.matmul(mixed, v))

    return _Graph(
        join,
        stem=nn.Sequential(_conv(3, 24, 3, 2, nn.GELU()), _conv(24, 36, 3, 2, nn.GELU())),
        norm=nn.LayerNorm(36),
        out=nn.Linear(36, 37),
        **{name: nn.Linear(36, 36) for name in "qkv"},
    )


EXAMPLES: dict[str, Example] = {
    "lprnet": Example(lambda: LPRNet(CLASSES), 24, 94, "LPRNet as it was published"),
    "resnet": Example(_resnet, 32, 96, "ResNet's basic blocks, CTC head"),
    "mobilenet-v2": Example(_mobilenet_v2, 32, 96, "inverted residuals, ReLU6"),
    "mobilenet-v3": Example(_mobilenet_v3, 32, 96, "the same, gated, Hard-swish"),
    "shufflenet-v1": Example(_shufflenet_v1, 32, 96, "group convolutions, shuffled"),
    "shufflenet-v2": Example(_shufflenet_v2, 32, 96, "split, joined, shuffled"),
    "squeezenet": Example(_squeezenet, 35, 67, "fire modules, global average"),
    "crnn": Example(_crnn, 32, 100, "CRNN without its LSTM, linear head"),
    "ppocr": Example(_ppocr, 32, 96, "PP-OCR's recognition without its LSTM"),
    "vgg": Example(_vgg, 32, 64, "plain convolutions, two linear layers"),
    "upsample": Example(_upsample, 32, 64, "a pyramid, upsampled, added, joined"),
    "efficientnet": Example(_efficientnet, 32, 96, "SiLU, gates"),
    "darknet-mish": Example(_darknet, 32, 96, "split and joined, Mish"),
    "yolo-leaky": Example(_yolo_tiny, 32, 64, "LeakyReLU, upsample, concat"),
    "densenet": Example(_densenet, 24, 64, "each layer joined to those before"),
    "inception": Example(_inception, 32, 64, "branches with a padded average"),
    "korean-fork": Example(_korean, 50, 100, "LPRNet's Korean fork, Mish"),
    "vietnamese-fork": Example(
        lambda: _vietnamese(False), 40, 100, "LPRNet's Vietnamese fork, its L2 norm left out"
    ),
    "vietnamese-fork-norm": Example(lambda: _vietnamese(True), 40, 100, "the same with it"),
    "svtr": Example(_svtr, 32, 96, "layer norm, attention over the steps"),
}


def example(name: str) -> nn.Module:
    """A network of `EXAMPLES`, its weights drawn by its name, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(name.encode("utf8")))
        network = EXAMPLES[name].build().eval()
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):  # as after training: nothing is folded away
                nn.init.uniform_(layer.weight, 0.7, 1.8)
                nn.init.normal_(layer.bias, 0.0, 0.3)
    return network


def names_of(text: str | None) -> Sequence[str]:
    """Names of examples, separated by commas; all without a text.

    Raises
    ------
    ParameterError
        For a name that is not one.
    """
    if text is None:
        return tuple(EXAMPLES)
    unknown = [name for name in text.split(",") if name not in EXAMPLES]
    if unknown:
        raise ParameterError(
            f"network {unknown[0]!r} is not known. Choose from {', '.join(EXAMPLES)}."
        )
    return tuple(text.split(","))
