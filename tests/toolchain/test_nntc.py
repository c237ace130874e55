"""TPU-NNTC: the documented command lines, and what happens when a tool does not do its part.

The real tools are not to be had; these are stand-ins that behave as documented.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from nntc_standin import PROTOTXT, install, install_docker, recorded, script
from pydantic import ValidationError

from lprnet_nb.datasets.alphabet import PUBLISHED
from lprnet_nb.datasets.lmdb import read_lmdb, write_lmdb
from lprnet_nb.errors import DataError, ParameterError, ToolchainError
from lprnet_nb.model.lprnet.layers import FORMS
from lprnet_nb.model.trace import TracedModel
from lprnet_nb.toolchain.bmodel import BModel
from lprnet_nb.toolchain.nntc import compile, installation, strategies
from lprnet_nb.toolchain.nntc.strategies import (
    NNTC_STRATEGIES,
    NntcStrategy,
    from_common,
    layers_of_roles,
    prototxt_layers,
    read_nntc_strategy,
)
from lprnet_nb.toolchain.strategies import STRATEGIES, Strategy, checked, make_strategy

FEW = NntcStrategy(name="few", iterations=3)
TUTORIAL = NNTC_STRATEGIES["tutorial"].model_copy(update={"iterations": 3})


@pytest.fixture
def record(tmp_path, monkeypatch) -> Path:
    """A clean environment: own cache, no SDK, a PATH with the system's programs only."""
    for name in (
        installation.SDK_VARIABLE,
        installation.DOCKER_VARIABLE,
        "PYTHONPATH",
        "REL_TOP",
        "STANDIN_FAULT",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LPRNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("STANDIN_RECORD", str(tmp_path / "record"))
    monkeypatch.setenv("STANDIN_PROTOTXT", PROTOTXT)
    return tmp_path / "record"


@pytest.fixture
def tools(tmp_path, record, monkeypatch) -> Path:
    """Stand-ins on the PATH, as after `source scripts/envsetup.sh`."""
    install(tmp_path / "tools")
    monkeypatch.setenv("PATH", f"{tmp_path / 'tools' / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return record


@pytest.fixture
def traced(tmp_path) -> TracedModel:
    path = tmp_path / "trace" / "LPRNet_model_trace.pt"
    path.parent.mkdir()
    path.write_bytes(b"torchscript")
    return TracedModel(
        path,
        path,
        hashlib.sha256(b"t").hexdigest(),
        1,
        "image",
        "published",
        "published",
        PUBLISHED,
    )


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 24, 94, 3), np.uint8)


def command_lines(record: Path) -> list[str]:
    """What the tools were called with, as one would type it."""
    start = {
        "bmnetp": "python3 -m bmnetp",
        "pt_to_umodel": "python3 -m ufw.tools.pt_to_umodel",
        "cali_model": "python3 -m ufw.cali.cali_model",
    }
    return [
        " ".join([start.get(call["tool"], call["tool"]), *call["arguments"]])
        for call in recorded(record)
    ]


# Command lines


def test_fp32_is_the_documented_command(tools, traced):
    model = compile.compile_bmodel(traced, "bm1684x", "FP32")
    assert command_lines(tools) == [
        "python3 -m bmnetp --net_name=lprnet --target=BM1684X --opt=1 --cmp=true "
        "--shapes=[1,3,24,94] --model=LPRNet_model_trace.pt --outdir=compilation --dyn=false"
    ]
    assert model.path.read_text() == "bmodel BM1684X [1,3,24,94]"
    assert (model.chip, model.precision, model.batch) == ("BM1684X", "fp32", 1)
    assert model.strategy is None
    assert model.graph is None and model.predicted_latency_ms is None
    assert model.tools["tpu_nntc"].startswith("on PATH ")
    left = {path.name for path in model.folder.iterdir()}
    assert left == {"lprnet.bmodel", "record.json", "compile.log", "inputs.json", "files.json"}
    assert "$ python3 -m bmnetp" in (model.folder / "compile.log").read_text()
    assert BModel.load(model.folder) == model


def test_int8_is_the_tutorials_four_steps(tools, traced, images):
    model = compile.compile_bmodel(
        replace(traced, batch=4, digest="4"),
        "BM1684X",
        "int8",
        strategy=TUTORIAL,
        calibration_images=images,
        single=traced,
    )
    umodel = "compilation/LPRNet_model_trace_bmnetp"
    assert command_lines(tools) == [
        "python3 -m ufw.tools.pt_to_umodel -m LPRNet_model_trace.pt -s (1,3,24,94) -d compilation "
        "-D lmdb/ --cmp",
        f"calibration_use_pb quantize -model={umodel}_test_fp32.prototxt "
        f"-weights={umodel}.fp32umodel -iterations=3 -fpfwd_blocks=x.1,237",
        f"bmnetu -model={umodel}_deploy_int8_unique_top.prototxt -weight={umodel}.int8umodel "
        "--target=BM1684X -outdir=compilation -shapes=[4,3,24,94] -cmp false",
    ]
    assert model.batch == 4 and model.strategy == "tutorial" and model.input_shape == (4, 3, 24, 94)
    assert model.path.read_text().startswith("bmodel BM1684X [4,3,24,94] int8 quantize")


def test_calibration_is_shared_by_chips_and_nothing_is_done_twice(tools, traced, images):
    for chip in ("BM1684X", "BM1684", "BM1684X"):
        compile.compile_bmodel(traced, chip, "int8", strategy=FEW, calibration_images=images)
    assert [call["tool"] for call in recorded(tools)] == [
        "pt_to_umodel",
        "calibration_use_pb",
        "bmnetu",
        "bmnetu",
    ]
    compile.compile_bmodel(traced, "BM1684", "int8", strategy=FEW, calibration_images=images[::-1])
    assert len(recorded(tools)) == 7


def test_the_lmdb_holds_what_the_network_takes(tools, traced, images, monkeypatch):
    seen = []

    def spy(arrays, folder):
        write_lmdb(arrays, folder)
        seen.append(np.stack([array for _, array in read_lmdb(folder)]))

    monkeypatch.setattr(compile, "write_lmdb", spy)
    for strategy in (FEW, TUTORIAL):
        compile.compile_bmodel(
            traced, "BM1684", "int8", strategy=strategy, calibration_images=images
        )
    bgr, rgb = seen
    assert bgr.shape == (3, 1, 3, 24, 94) and bgr.dtype == np.float32
    np.testing.assert_array_equal(
        bgr[1, 0, 2], (images[1, :, :, 2].astype(np.float32) - 127.5) / 128
    )
    np.testing.assert_array_equal(rgb, bgr[:, :, ::-1])


def test_one_key_is_the_documented_command(tools, traced, images):
    strategy = NntcStrategy(
        name="one", iterations=4, fpfwd_outputs=("237",), th_method="MSE", per_channel=True
    )
    model = compile.auto_calibrate(traced, "BM1684", strategy, images)
    assert command_lines(tools) == [
        "python3 -m ufw.cali.cali_model --net_name lprnet --model LPRNet_model_trace.pt "
        "--input_shapes [1,3,24,94] --target BM1684 --cali_iterations 4 --cali_lmdb lmdb/ "
        "--try_cali_accuracy_opt=-th_method=MSE;-fpfwd_outputs=237;-per_channel=true "
        "--outdir compilation"
    ]
    assert model.path.read_text() == "one key" and model.precision == "int8"


def test_two_bmodels_into_one(tools, traced):
    one = compile.compile_bmodel(traced, "BM1684X", "fp32")
    four = compile.compile_bmodel(replace(traced, batch=4, digest="4"), "BM1684X", "fp32")
    both = compile.combine_bmodels([one, four])
    assert (
        command_lines(tools)[-1] == "tpu_model --combine 1b.bmodel 4b.bmodel -o compilation.bmodel"
    )
    assert both.path.read_text() == one.path.read_text() + four.path.read_text()
    assert both.batch == 4 and set(both.tools) == {"tpu_nntc", "tpu_model"}
    other = compile.compile_bmodel(traced, "BM1684", "fp32")
    with pytest.raises(ParameterError, match="differ in chip: BM1684, BM1684X"):
        compile.combine_bmodels([four, other])
    with pytest.raises(ParameterError, match=r"batch sizes \[1, 1\]"):
        compile.combine_bmodels([one, one])


# Strategies


def test_every_documented_option():
    strategy = NntcStrategy(
        name="all",
        iterations=10,
        th_method="SYMKL",
        fpfwd_inputs=("a",),
        fpfwd_outputs=("b", "c"),
        fpfwd_blocks=("< 24 >86",),
        accuracy_opt=True,
        conv_group=True,
        per_channel=True,
        graph_transform=True,
        winograd=True,
        fuse_preprocess=True,
        fp32_diff=0.01,
        save_test_proto=True,
        dump_dist=True,
    )
    assert strategy.options(["x.1"]) == [
        "-iterations=10",
        "-th_method=SYMKL",
        "-fpfwd_inputs=a",
        "-fpfwd_outputs=b,c",
        "-fpfwd_blocks=x.1,< 24 >86",
        "-accuracy_opt=true",
        "-conv_group=true",
        "-per_channel=true",
        "-graph_transform=true",
        "-winograd=true",
        "-fuse_preprocess=true",
        "-save_test_proto=true",
        "-fp32_diff=0.01",
        "-dump_dist=distribution.th",
    ]
    assert NntcStrategy(name="default").options() == ["-iterations=200"]


@pytest.mark.parametrize("method", ["SYMKL", "JSD", "ADMM", "ACIQ", "MAX", "MSE", "PERCENTILE9999"])
def test_every_threshold_method(method):
    assert NntcStrategy(name="t", th_method=method).options()[1] == f"-th_method={method}"


@pytest.mark.parametrize(
    "fields,said",
    [
        ({"th_method": "kl"}, "th_method"),
        ({"iterations": 0}, "iterations"),
        ({"fp32_diff": 0}, "fp32_diff"),
        ({"fp32_diff": float("nan")}, "fp32_diff"),
        ({"per_channel": "perhaps"}, "per_channel"),
        ({"unknown": 1}, "unknown"),
        ({"fpfwd_blocks": ("a,b",)}, "has a comma"),
        ({"fpfwd_outputs": ("a;b",)}, "semicolon"),
        ({"fpfwd_inputs": (" ",)}, "is empty"),
        ({"float_roles": ("concat",)}, "no known layer"),
        ({"th_method": "ADMM", "dump_dist": True}, "ADMM can neither"),
        ({"dump_dist": True, "load_dist": "x"}, "exclude one another"),
        ({"name": "Ä"}, "name"),
    ],
)
def test_impossible_strategies(fields, said):
    with pytest.raises(ParameterError, match=said):
        checked(NntcStrategy, "TPU-NNTC strategy", {"name": "wrong"} | fields)


def test_strategies_cannot_be_changed():
    with pytest.raises(ValidationError):
        FEW.iterations = 5


@pytest.mark.parametrize(
    "name,options",
    [
        ("kl", ["-iterations=100"]),
        ("mse", ["-iterations=100", "-th_method=MSE"]),
        ("max", ["-iterations=100", "-th_method=MAX"]),
        ("percentile9999", ["-iterations=100", "-th_method=PERCENTILE9999"]),
        ("kl-450", ["-iterations=450"]),
        ("mse-tune0", ["-iterations=100", "-th_method=MSE"]),
        ("kl-in-out", ["-iterations=100", "-fpfwd_blocks=x.1,237"]),
    ],
)
def test_common_strategies_translate(name, options):
    strategy = from_common(STRATEGIES[name])
    assert strategy.options(layers_of_roles(PROTOTXT, strategy.float_roles)) == options
    assert strategy.name == name and strategy.images == STRATEGIES[name].images


@pytest.mark.parametrize("kind", [Strategy, NntcStrategy])
def test_a_strategy_takes_the_forms_that_the_network_has(kind):
    assert set(get_args(kind.model_fields["form"].annotation)) == set(FORMS)


def test_form_and_channel_order_translate():
    assert from_common(STRATEGIES["mse-forked"]).form == "forked"
    assert from_common(STRATEGIES["kl-rgb"]).channel_order == "rgb"


@pytest.mark.parametrize(
    "fields,said",
    [
        ({"method": "aciq_gauss"}, "method='aciq_gauss'"),
        ({"tune": 20}, "tune=20"),
        ({"weight_equalization": True}, "weight_equalization=True"),
        ({"bias_correction": True}, "bias_correction=True"),
        ({"symmetric": False}, "symmetric=False"),
        ({"fuse_preprocess": True}, "fuse_preprocess=True"),
        ({"finetune": True}, "finetune=True"),
        ({"search": "search_qtable"}, "search='search_qtable'"),
        ({"float_roles": ("concat",)}, "float_roles=.*'concat'"),
    ],
)
def test_what_cannot_be_translated_names_the_field(fields, said):
    with pytest.raises(ParameterError, match=said):
        from_common(make_strategy(name="wrong", **fields))


def test_roles_are_read_off_the_prototxt(tools, traced, images):
    assert layers_of_roles(PROTOTXT, ["block4"]) == [f"< 1 >{i}" for i in range(2, 6)]
    assert layers_of_roles(PROTOTXT, ["neck", "container"]) == ["< 1 >14", "< 1 >16"]
    strategy = FEW.model_copy(update={"float_roles": ("input", "output")})
    compile.compile_bmodel(traced, "BM1684", "int8", strategy=strategy, calibration_images=images)
    assert recorded(tools)[1]["arguments"][-1] == "-fpfwd_blocks=x.1,237"


@pytest.mark.parametrize(
    "text,said",
    [
        ("", "type 'none'"),
        ('layer { name: "a" type: "ReLU" }', "type 'ReLU'"),
        ('layer { name: "a" type: "Data" }', "0 convolutions, expected 16"),
        ("layer {", "never|not closed"),
        ("}", "never opened"),
        ('layer { name: "a }', "quote"),
    ],
)
def test_roles_of_an_unexpected_prototxt(text, said):
    with pytest.raises(ToolchainError, match=said):
        layers_of_roles(text, ["block8"])


def test_prototxt_layers_of_the_top_level_only():
    assert prototxt_layers(PROTOTXT)[:2] == [("x.1", "Data"), ("< 1 >1", "Convolution")]
    assert len(prototxt_layers(PROTOTXT)) == 34
    with pytest.raises(DataError):
        prototxt_layers("a { b {")


def test_strategy_files(tmp_path):
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"toolchain": "nntc", "name": "own", "th_method": "JSD"}))
    assert read_nntc_strategy(path).th_method == "JSD"
    path.write_text(json.dumps({"name": "common", "method": "mse"}))
    assert strategies.strategy_named(str(path)).th_method == "MSE"
    path.write_text("[" * 100_000)
    with pytest.raises(ParameterError, match="cannot be read"):
        read_nntc_strategy(path)
    assert strategies.strategy_named("tutorial").iterations == 450
    assert strategies.strategy_named("kl").iterations == 100
    with pytest.raises(ParameterError, match="not known to TPU-NNTC"):
        strategies.strategy_named("k1")


def test_distributions_are_kept_and_used_again(tools, traced, images):
    dumped = FEW.model_copy(update={"dump_dist": True})
    folder, _ = compile._quantize(compile.nntc(), traced, images, dumped)
    assert (folder / "distribution.th").read_text() == "measured"
    loaded = NntcStrategy(
        name="l", iterations=3, load_dist=str(folder / "distribution.th"), th_method="MAX"
    )
    compile.compile_bmodel(traced, "BM1684", "int8", strategy=loaded, calibration_images=images)
    assert "-load_dist=distribution.th" in recorded(tools)[-2]["arguments"]
    with pytest.raises(ParameterError, match="is not a file"):
        compile.compile_bmodel(
            traced,
            "BM1684",
            "int8",
            calibration_images=images,
            strategy=loaded.model_copy(update={"load_dist": "/nowhere"}),
        )


# What it cannot do


@pytest.mark.parametrize(
    "chip,precision,said",
    [
        ("BM1688", "fp32", "cannot compile for BM1688. It does BM1684, BM1684X"),
        ("CV186X", "int8", "cannot compile for CV186X"),
        ("BM1684X", "fp16", "cannot compile for fp16"),
        ("BM1684X", "bf16", "fp32, int8"),
        ("BM1685", "fp32", "not known"),
    ],
)
def test_chips_and_precisions(traced, chip, precision, said):
    with pytest.raises(ParameterError, match=said):
        compile.compile_bmodel(traced, chip, precision, strategy=None)


def test_arguments_that_do_not_go_together(record, traced, images):
    def compile_one(trace=traced, strategy=FEW, calibration=images, precision="int8", **options):
        return compile.compile_bmodel(
            trace, "BM1684", precision, strategy=strategy, calibration_images=calibration, **options
        )

    for options, said in [
        ({"strategy": None}, "needs a strategy"),
        ({"calibration": None}, "needs a strategy"),
        ({"precision": "fp32"}, "does not apply to fp32"),
        ({"calibration": images[:2]}, "takes 3 calibration images, one an iteration"),
        ({"calibration": images.astype(np.float32)}, "float32"),
        ({"trace": replace(traced, batch=4)}, "calibrates at batch 1"),
        ({"trace": replace(traced, form="forked")}, "needs the 'published' form"),
    ]:
        with pytest.raises(ParameterError, match=said):
            compile_one(**options)
    with pytest.raises(ParameterError, match="one-key tool takes neither"):
        compile.auto_calibrate(
            traced, "BM1684", TUTORIAL.model_copy(update={"float_roles": ("input",)}), images
        )


# Where it is found


def test_nothing_installed_is_one_error_that_says_what_to_do(record, traced, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with pytest.raises(ToolchainError) as error:
        compile.compile_bmodel(traced, "BM1684", "fp32")
    for part in (
        "no bmnetu, calibration_use_pb, bmnetp, ufw",
        installation.SDK_VARIABLE,
        installation.DOCKER_VARIABLE,
        "scripts/envsetup.sh",
        "--toolchain mlir",
    ):
        assert part in str(error.value)
    monkeypatch.setenv(installation.SDK_VARIABLE, str(tmp_path))
    with pytest.raises(ToolchainError, match="not an unpacked TPU-NNTC SDK"):
        compile.nntc()
    monkeypatch.delenv(installation.SDK_VARIABLE)
    monkeypatch.setenv(installation.DOCKER_VARIABLE, "sophgo/tpuc_dev:v2.1")
    with pytest.raises(ToolchainError, match="needs LPRNET_NNTC_SDK too"):
        compile.nntc()


def test_one_tool_missing(tools, tmp_path, traced):
    (tmp_path / "tools" / "bin" / "bmnetu").unlink()
    with pytest.raises(ToolchainError, match="not here: no bmnetu. Unpack"):
        compile.compile_bmodel(traced, "BM1684", "fp32")


def make_sdk(tmp_path: Path) -> Path:
    """An SDK folder whose envsetup.sh is as rude as they are: it talks, fails, and looks at $1."""
    sdk = tmp_path / "tpu-nntc_v3.1.7 of 2023"
    install(sdk)
    (sdk / "scripts").mkdir()
    (sdk / "scripts" / "envsetup.sh").write_text(
        'echo "lprnet-nb bmnetu hello from envsetup"\n[ -z "$1" ] || exit 9\n'
        'export PATH="$PWD/bin:$PATH"\ncd /tmp\nfalse\n'
    )
    return sdk


def test_sdk_folder_is_sourced_for_its_tools_alone(record, traced, tmp_path, monkeypatch):
    monkeypatch.setenv(installation.SDK_VARIABLE, str(make_sdk(tmp_path)))
    path = os.environ["PATH"]
    model = compile.compile_bmodel(traced, "BM1684", "fp32")
    assert model.tools["tpu_nntc"].startswith("tpu-nntc_v3.1.7 of 2023 ")
    assert command_lines(record)[0].startswith("python3 -m bmnetp --net_name=lprnet")
    assert os.environ["PATH"] == path


def test_docker_sees_the_sdk_and_one_folder(record, traced, images, tmp_path, monkeypatch):
    sdk = make_sdk(tmp_path)
    install_docker(tmp_path / "docker")
    monkeypatch.setenv("PATH", f"{tmp_path / 'docker'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv(installation.SDK_VARIABLE, str(sdk))
    monkeypatch.setenv(installation.DOCKER_VARIABLE, "sophgo/tpuc_dev:v2.1")
    model = compile.compile_bmodel(
        traced, "BM1684X", "int8", strategy=FEW, calibration_images=images
    )
    assert model.tools["tpu_nntc"].endswith(" in sophgo/tpuc_dev:v2.1")
    runs = [call["arguments"] for call in recorded(record) if call["tool"] == "docker"]
    assert len(runs) == 4  # a look, and three tools
    run = runs[2]
    assert run[:4] == ["run", "--rm", "--init", "--name"]
    assert run[5:9] == ["--user", f"{os.getuid()}:{os.getgid()}", "--env", "HOME=/tmp"]
    assert run[10] == f"type=bind,source={sdk},target=/workspace/tpu-nntc"
    assert run[12].endswith(",target=/workspace/work")
    assert run[13:16] == ["sophgo/tpuc_dev:v2.1", "bash", "-c"]
    assert run[18:20] == ["/workspace/tpu-nntc", "/workspace/work"]
    assert run[20:22] == ["calibration_use_pb", "quantize"]
    assert len({call[4] for call in runs}) == 4  # a name of its own for each container


def test_a_container_is_stopped_with_its_client(record, traced, tmp_path, monkeypatch):
    install_docker(tmp_path / "docker")
    monkeypatch.setenv("PATH", f"{tmp_path / 'docker'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv(installation.SDK_VARIABLE, str(make_sdk(tmp_path)))
    monkeypatch.setenv(installation.DOCKER_VARIABLE, "sophgo/tpuc_dev:v2.1")
    monkeypatch.setenv("STANDIN_FAULT", "bmnetp:hang")
    compile.nntc()
    monkeypatch.setattr(installation.Nntc.run, "__kwdefaults__", {"timeout": 2.0})
    with pytest.raises(ToolchainError, match="did not end"):
        compile.compile_bmodel(traced, "BM1684", "fp32")
    calls = [call["arguments"] for call in recorded(record) if call["tool"] == "docker"]
    assert calls[-1] == ["kill", calls[-2][4]]


def test_docker_itself_missing(record, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv(installation.SDK_VARIABLE, str(make_sdk(tmp_path)))
    monkeypatch.setenv(installation.DOCKER_VARIABLE, "sophgo/tpuc_dev:v2.1")
    with pytest.raises(ToolchainError, match="needs docker"):
        compile.nntc()


def test_the_workbooks_own_python_is_not_theirs(record, monkeypatch, tmp_path):
    monkeypatch.setattr(installation.sys, "prefix", str(tmp_path / "venv"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'venv' / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "venv"))
    environment = installation.environment()
    assert environment["PATH"] == "/usr/bin:/bin" and "VIRTUAL_ENV" not in environment


# Tools that do not do their part


@pytest.mark.parametrize("tool", ["bmnetp", "pt_to_umodel", "calibration_use_pb", "bmnetu"])
@pytest.mark.parametrize(
    "fault,said",
    [
        ("exit", r"exit status 3[\s\S]*unknown operator aten::strange"),
        ("signal", r"signal 11[\s\S]*about to crash"),
        ("nothing", "ended well but left no"),
        ("empty", "ended well but left no"),
    ],
)
def test_failures_come_with_the_log_and_leave_nothing(
    tools, traced, images, monkeypatch, tmp_path, tool, fault, said
):
    options = {} if tool == "bmnetp" else {"strategy": FEW, "calibration_images": images}
    precision = "fp32" if tool == "bmnetp" else "int8"
    monkeypatch.setenv("STANDIN_FAULT", f"{tool}:{fault}")
    with pytest.raises(ToolchainError, match=said) as error:
        compile.compile_bmodel(traced, "BM1684", precision, **options)
    assert "%|" not in str(error.value)  # progress bars are left out
    places = [p for p in (tmp_path / "cache" / "artifacts").glob("*/*") if p.is_dir()]
    assert all(p.parent.name == "nntc-umodel" and tool == "bmnetu" for p in places)
    monkeypatch.delenv("STANDIN_FAULT")
    assert compile.compile_bmodel(traced, "BM1684", precision, **options).path.stat().st_size


def test_a_tool_that_hangs_is_ended(tools, traced, monkeypatch):
    compile.nntc()
    monkeypatch.setattr(installation.Nntc.run, "__kwdefaults__", {"timeout": 1.0})
    monkeypatch.setenv("STANDIN_FAULT", "bmnetp:hang")
    started = time.monotonic()
    with pytest.raises(ToolchainError, match="did not end within 1 s"):
        compile.compile_bmodel(traced, "BM1684", "fp32")
    assert time.monotonic() - started < 20


def test_one_key_with_several_results(tools, traced, images, monkeypatch, tmp_path):
    body = tmp_path / "tools" / "modules" / "standin.py"
    two = '"one key"); write("b/compilation.bmodel", "x")'
    body.write_text(body.read_text().replace('"one key")', two))
    with pytest.raises(ToolchainError, match="left 2 BModels"):
        compile.auto_calibrate(traced, "BM1684", FEW, images)


def test_an_altered_bmodel_is_made_again(tools, traced):
    model = compile.compile_bmodel(traced, "BM1684", "fp32")
    model.path.write_text("altered")
    again = compile.compile_bmodel(traced, "BM1684", "fp32")
    assert again.path.read_text() == "bmodel BM1684 [1,3,24,94]"


def test_a_tool_that_was_replaced_makes_new_models(tools, traced, tmp_path):
    first = compile.compile_bmodel(traced, "BM1684", "fp32")
    installation._probe.cache_clear()
    program = tmp_path / "tools" / "bin" / "bmnetu"
    script(program, program.read_text() + "# a later version\n")
    assert compile.compile_bmodel(traced, "BM1684", "fp32").digest != first.digest


# Through the report's functions


def test_reports_and_commands_compile_with_it(tools, images, tmp_path, monkeypatch):
    from lprnet_nb import steps
    from lprnet_nb.datasets.images import PlateImages
    from lprnet_nb.measure import parameters
    from lprnet_nb.measure.data import Data
    from lprnet_nb.measure.models import compile_all
    from lprnet_nb.model.lprnet.layers import LPRNet
    from lprnet_nb.model.weights import Weights

    monkeypatch.setitem(NNTC_STRATEGIES, "few", FEW)
    monkeypatch.setenv("LPRNET_DATA", str(tmp_path / "data"))
    plates = PlateImages("noise", images, tuple("abcd"), ("皖A12345",) * 4)
    data = Data(
        plates, plates, True, Weights("seeded", LPRNet(68).eval().state_dict()), "folder", "", 0.0
    )
    monkeypatch.setattr("lprnet_nb.measure.data.datasets_for", lambda parameters, labels: data)
    wanted = parameters.check(
        CHIPS="BM1684X",
        PRECISIONS="fp32,fp16,int8",
        BATCHES="1,2",
        STRATEGIES="few",
        TOOLCHAIN="nntc",
    )
    with pytest.raises(ParameterError, match="cannot compile for fp16"):
        compile_all(wanted, data, progress=False)
    compiled = compile_all(replace(wanted, precisions=("fp32", "int8")), data, progress=False)
    assert [item.id for item in compiled] == [
        "bm1684x_fp32_1b",
        "bm1684x_fp32_2b",
        "bm1684x_int8_1b_few",
        "bm1684x_int8_2b_few",
    ]
    assert wanted.backend in ("simulator", "device")  # there is no graph to emulate
    paths = steps.gen_bmodels(replace(wanted, precisions=("fp32",)))
    both = steps.combine(paths, tmp_path / "both.bmodel")
    assert BModel.load(both).batch == 2
    assert both.read_text() == paths[0].read_text() + paths[1].read_text()
    one = steps.gen_one_key(replace(wanted, precisions=("int8",), batches=(1,)))
    assert one == tmp_path / "data" / "models" / "BM1684X" / "lprnet_int8_1b.bmodel"
    assert BModel.load(one).strategy == "few"
