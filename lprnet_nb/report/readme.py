"""The measured part of the two READMEs, from committed runs: `python -m lprnet_nb.report.readme`.

It rewrites what stands between ``<!-- results -->`` and ``<!-- /results -->``, and the pictures in
``docs/figures/``. A test holds the text to the data, so a number in a README is one of a run.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from .. import figures
from ..cache import atomic_write, file_digest, repository
from ..errors import DataError
from ..figures import study as study_figures
from ..figures.style import MINUS
from ..measure.schema import Manifest, Row, read_manifest, read_metrics
from ..study.cells import CROSS_FIT
from ..study.results import committed_path, read_study, recommendations, summarize, verdicts

READMES = {"README.md": "en", "README.zh-CN.md": "zh"}
BLOCK = re.compile(r"(<!-- results -->\n).*?(<!-- /results -->)", re.S)
# Told in this order; the tutorial's three tips and what helps.
TOLD = (
    "calibrate on RGB (bgr2rgb)",
    "fewer calibration images (20)",
    "more calibration images (450)",
    "first and last layer in float",
    "a convolution of their own for pooled channels",
)
WORDS: dict[str, dict[str, str]] = {
    "en": {
        "study": "Exact match on the {images:,} published plates, greedy decoding; float reads "
        "{float:.3f}. INT8 as the mean over {draws} calibration draws that are never among"
        " the evaluated plates (two-fold cross-fit), with the lowest and the highest draw,"
        " and the time that the compiler predicts for an image:",
        "kl": "INT8, the compiler's default (KL)",
        "mse": "INT8, least squared error",
        "best": "**INT8, recommended**",
        "float": "float (PyTorch)",
        "none": "–",
        "chosen": "The recommended setting of each chip is the study's best on these same plates: "
        "{names}.",
        "tips": "Does the advice hold? Gain in points, with its 95 % interval; **bold** where the "
        "interval excludes no gain (or no loss):",
        "tip": "advice",
        "on": "on top of",
        "report": "One run of the whole job, one calibration draw ({command}): exact match with "
        "greedy decoding / with the grammar of plates, batch 1:",
        "model": "model",
        "figure": "Exact match by strategy and chip, with intervals",
        "from": "From `{study}` (TPU-MLIR {tool}, run on the {backend}) and `{report}` "
        "(made {date}, revision {revision}), by `python -m lprnet_nb.report.readme`.",
    },
    "zh": {
        "study": "在 {images:,} 张公开测试车牌上的整牌准确率（贪心解码）；"
        "浮点模型为 {float:.3f}。INT8 为 {draws} "
        "次校准抽样的均值（校准图片从不参与评测，两折交叉），"
        "括号内为最低与最高，并给出编译器预测的单张耗时：",
        "kl": "INT8，编译器默认（KL）",
        "mse": "INT8，最小均方误差（MSE）",
        "best": "**INT8，推荐策略**",
        "float": "浮点（PyTorch）",
        "none": "–",
        "chosen": "各芯片的推荐策略是研究在同一批车牌上得到的最好一种：{names}。",
        "tips": "这些建议成立吗？下表为准确率变化（百分点）及 95 % 区间；"
        "区间不含零者以**粗体**标出：",
        "tip": "建议",
        "on": "基准",
        "report": "完整运行一次（单次校准抽样，{command}）："
        "整牌准确率，贪心解码 / 车牌语法解码，batch 1：",
        "model": "模型",
        "figure": "各策略、各芯片的整牌准确率及区间",
        "from": "数据来自 `{study}`（TPU-MLIR {tool}，{backend} 后端）与 "
        "`{report}`（{date}，版本 {revision}），由 `python -m lprnet_nb.report.readme` 生成。",
    },
}
TIPS_ZH = dict(
    zip(
        TOLD,
        (
            "校准集用 RGB（bgr2rgb）",
            "更少的校准图片（20 张）",
            "更多的校准图片（450 张）",
            "首尾两层保留浮点",
            "池化保留的通道单独成卷积（forked）",
        ),
    )
)


@dataclass(frozen=True)
class Runs:
    """The committed runs that the READMEs speak of.

    Parameters
    ----------
    study
        Of `study_results.committed_study`.
    study_path, report_path
        Where they lie, relative to the repository.
    rows, manifest
        The report's.
    """

    study: dict[str, Any]
    study_path: str
    report_path: str
    rows: Sequence[Row]
    manifest: Manifest


def read_runs() -> Runs:
    """Read the newest study in ``data/studies/`` and the newest report in ``data/reports/``.

    Raises
    ------
    DataError
        When one of them is missing.
    """
    root = repository()
    study = committed_path()
    reports = sorted((root / "data" / "reports").glob("*/metrics.json"))
    if study is None or not reports:
        raise DataError(
            f"{root / 'data'} holds no committed study or no report. Both come with "
            "the repository: check it out whole."
        )
    folder = reports[-1].parent
    return Runs(
        read_study(study),
        study.relative_to(root).as_posix(),
        folder.relative_to(root).as_posix(),
        read_metrics(reports[-1]).rows,
        read_manifest(folder / "manifest.json"),
    )


def results(runs: Runs, language: str) -> str:
    """The block of a README, Markdown, in ``"en"`` or ``"zh"``."""
    say = WORDS[language]
    lines = [line for line in summarize(runs.study) if line["scheme"] == CROSS_FIT]
    chips = list(dict.fromkeys(line["chip"] for line in lines))
    best = {found["chip"]: found for found in recommendations(runs.study)}
    reference = runs.study["float"]["correct"] / runs.study["float"]["images"]
    draws = max(line["draws"] for line in lines)
    known = {(line["strategy"], line["chip"]): line for line in lines if "mean" in line}
    table = [["", *chips]]
    for key in ("kl", "mse", "best"):
        cells = [
            _study_cell(best.get(chip) if key == "best" else known.get((key, chip)), say)
            for chip in chips
        ]
        table.append([say[key], *cells])
    names = "; ".join(f"{chip} `{found['strategy']}`" for chip, found in best.items())
    command = "`scripts/report.sh --profile full`"
    parts = [
        say["study"].format(images=runs.study["float"]["images"], float=reference, draws=draws),
        _markdown(table),
        say["chosen"].format(names=names),
        f"![{say['figure']}](docs/figures/results.svg)",
        say["tips"],
        _markdown(_tip_table(runs.study, chips, say, language)),
        say["report"].format(command=command),
        _markdown(_report_table(runs.rows, say)),
        say["from"].format(
            study=runs.study_path,
            tool=runs.study["provenance"]["tpu_mlir"],
            backend=runs.study["provenance"]["backend"],
            report=runs.report_path,
            date=str(runs.manifest.created)[:10],
            revision=(runs.manifest.revision or "?")[:7],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _study_cell(line: dict[str, Any] | None, say: dict[str, str]) -> str:
    if line is None:
        return say["none"]
    time = f", {line['latency_ms']:.3f} ms" if line.get("latency_ms") else ""
    return f"{line['mean']:.3f} ({line['low']:.3f}–{line['high']:.3f}){time}"


def _tip_table(
    study: dict[str, Any], chips: Sequence[str], say: dict[str, str], language: str
) -> list[list[str]]:
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for line in verdicts(study):
        if line["tip"] in TOLD:
            low, high = (100 * end for end in line["interval"])
            text = f"{100 * line['difference']:+.1f} ({low:+.1f} … {high:+.1f})".replace("-", MINUS)
            rows.setdefault((line["tip"], line["baseline"]), {})[line["chip"]] = (
                f"**{text}**" if low > 0 or high < 0 else text
            )
    order = sorted(rows, key=lambda key: TOLD.index(key[0]))
    said = TIPS_ZH if language == "zh" else dict(zip(TOLD, TOLD))
    used = [chip for chip in chips if any(chip in row for row in rows.values())]
    return [
        [say["tip"], say["on"], *used],
        *(
            [said[key[0]], f"`{key[1]}`", *(rows[key].get(chip, say["none"]) for chip in used)]
            for key in order
        ),
    ]


def _report_table(rows: Sequence[Row], say: dict[str, str]) -> list[list[str]]:
    single = [row for row in rows if row.batch == 1 and row.batch_mean == "image"]
    chips = list(dict.fromkeys(row.chip for row in single if row.chip))

    def cell(chip: str | None, precision: str, strategy: str | None) -> str:
        read = {
            row.decoder: row
            for row in single
            if (row.chip, row.precision, row.strategy) == (chip, precision, strategy)
        }
        if not read:
            return say["none"]
        time = next(iter(read.values())).predicted_latency_ms
        return " / ".join(f"{read[decoder].exact_match:.3f}" for decoder in ("greedy", "plate")) + (
            f", {time:.3f} ms" if time else ""
        )

    models = list(dict.fromkeys((row.precision, row.strategy) for row in single if row.chip))
    table = [[say["model"], *chips], [say["float"], *[cell(None, "fp32", None)] * len(chips)]]
    for precision, strategy in models:
        name = precision.upper() + (f", `{strategy}`" if strategy else "")
        table.append([name, *(cell(chip, precision, strategy) for chip in chips)])
    return table


def _markdown(table: Sequence[Sequence[str]]) -> str:
    head, *body = ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join([head, "|" + "---|" * len(table[0]), *body])


def results_figure(runs: Runs) -> Figure:
    """Exact match of the compiler's default, least squares and the recommendation, by chip."""
    best = {found["chip"]: found["strategy"] for found in recommendations(runs.study)}
    chosen = []
    for line in summarize(runs.study):
        if line["scheme"] != CROSS_FIT or "mean" not in line:
            continue
        for strategy, name in (
            ("kl", "compiler's default (KL)"),
            ("mse", "least squared error"),
            (best.get(line["chip"]), "recommended"),
        ):
            if line["strategy"] == strategy:
                chosen.append({**line, "strategy": name})
    order = ("compiler's default (KL)", "least squared error", "recommended")
    chosen.sort(key=lambda line: order.index(line["strategy"]))
    reference = runs.study["float"]["correct"] / runs.study["float"]["images"]
    return study_figures.accuracy(chosen, reference)


def source_digest(runs: Runs) -> str:
    """What the figure was drawn from, for its metadata: SHA-256 of the study's file."""
    return file_digest(repository() / runs.study_path)


def write_readmes(root: Path) -> list[Path]:
    """Rewrite the blocks and the pictures below `root`, and say which files were written.

    Raises
    ------
    DataError
        When a README has no place for the results.
    """
    runs, written = read_runs(), []
    for name, language in READMES.items():
        text = (root / name).read_text("utf8")
        if not BLOCK.search(text):
            raise DataError(
                f"{name} has no '<!-- results -->' … '<!-- /results -->'. Put the two "
                "comments where the results go."
            )
        block = results(runs, language)
        written.append(
            atomic_write(root / name, BLOCK.sub(lambda m, block=block: m[1] + block + m[2], text))
        )
    for name, figure in (("workflow", figures.workflow()), ("results", results_figure(runs))):
        data = io.BytesIO()
        figure.savefig(
            data,
            format="svg",
            metadata={
                "Date": None,
                "Description": source_digest(runs) if name == "results" else name,
            },
        )
        written.append(atomic_write(root / "docs" / "figures" / f"{name}.svg", data.getvalue()))
    return written


if __name__ == "__main__":
    for path in write_readmes(repository()):
        print(path)
