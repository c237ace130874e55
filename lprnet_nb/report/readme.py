"""The measured part of the two READMEs, from committed runs: `python -m lprnet_nb.report.readme`.

It rewrites what stands between ``<!-- results -->`` and ``<!-- /results -->``, the headline
likewise, and the figures in ``docs/figures/``. A test holds the text to the data, so a number in a
README is one of a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from .. import figures
from ..cache import file_digest
from ..errors import DataError
from ..evaluate.published import LATEST, OURS, published_accuracy, published_latency
from ..figures import study as study_figures
from ..figures.style import MINUS
from ..files import atomic_write
from ..measure.schema import Manifest, Row, read_manifest, read_metrics
from ..places import repository
from ..study.cells import CROSS_FIT
from ..study.replication import VERDICTS, counts, replicated, worlds_path
from ..study.results import (
    candidates,
    committed_path,
    committed_study,
    read_study,
    recommendations,
    summarize,
    verdicts,
)
from ..study.worlds import COMMITTED, JUDGED
from .blocks import filled, markdown
from .board_times import VENDORS_STRATEGY, call_costs

THREE_LOOKS = (
    0.948  # chosen on one half and judged on the other: tests/decode/test_golden_readings.py
)
HEADLINE_CHIPS = ("BM1684X", "BM1684")  # those that most readers have
READMES = {"README.md": "en", "README.zh-CN.md": "zh"}
# Told in this order; the tutorial's three tips and what helps.
TOLD = (
    "calibrate on RGB (bgr2rgb)",
    "fewer calibration images (20)",
    "more calibration images (450)",
    "first and last layer in float",
    "a convolution of their own for pooled channels",
    "another threshold method (mse)",
    "the first layer and the context in float, once forked",
    "the first block and the context's squares in float, once forked",
)
WORDS: dict[str, dict[str, str]] = {
    "en": {
        "headline": "Plates read without any error, on {chips}: the vendor publishes **{vendors}** "
        "for its own INT8 model, the compiler's default comes to **{kl}**, what this workbook "
        "recommends to **{best}**; float reads {float:.3f}. Read with the grammar of plates, the "
        "same models come to **{plate}** (float {float_plate:.3f}), and three looks at each plate "
        "to {views:.3f} in float. The strategy was chosen on other plates than those it is "
        "judged on (nested), save for the grammar, where these plates chose it by their readings "
        "without; no calibration plate is judged.",
        "headline_figure": "Exact match step by step: the vendor's own, the compiler's default, "
        "recommended, with the grammar, three looks",
        "study": "Exact match on the {images:,} published plates; float reads {float:.3f}, "
        "{float_plate:.3f} with the grammar of plates. INT8 as the mean over {draws} calibration "
        "draws, with the lowest and the highest; calibration plates are never among the judged "
        "ones (two-fold cross-fit), and the recommended strategy is judged on plates that its "
        "choice has not seen (nested):",
        "vendor": "INT8, published by the vendor",
        "kl": "INT8, the compiler's default (KL)",
        "mse": "INT8, least squared error",
        "best": "**INT8, recommended**",
        "plate": "the same, read with the grammar",
        "views": "**Three looks** at each plate with the grammar read {views} in float "
        "([docs/decoding.md](docs/decoding.md)).",
        "float": "float (PyTorch)",
        "none": "–",
        "chosen": "Recommended: {names}. On the very plates that made it the best of "
        "{many} strategies it reads {selected}: a little more than it is worth.",
        "times": "Milliseconds a call, batch 1: predicted by the compiler, → what that comes to on "
        "the vendor's boards, and what the vendor measured there (`bmrt_test`). The prediction "
        "leaves out what a call costs however small its network: {fixed}. That is fitted to the "
        "vendor's times, which it meets within {worst}:",
        "fixed": "{ms:.2f} ms on {chip}",
        "worst": "{share} on {chip}",
        "measured": "measured",
        "tips": "Does the advice hold? Gain in points, with its 95 % interval; **bold** where the "
        "interval excludes no gain (or no loss):",
        "tip": "advice",
        "on": "on top of",
        "elsewhere": "elsewhere, {chip}",
        "worlds": "**Elsewhere**: in how many of {count} other worlds the advice holds / does not "
        "hold / cannot be told, by the same rule (notebook 06). Worlds are this project's own "
        "weights on the photographs, and both weights on {generated:,} generated plates and on "
        "photographs with a detector's margins of 5, 10 and 20 % of the width and twice that of "
        "the height; {draws} calibration draws, from `{path}` (`lprnet-nb study {path} --worlds "
        "all`).",
        "report": "One run of the whole job, one calibration draw ({command}): exact match with "
        "greedy decoding / with the grammar of plates, batch 1. {calibrated}",
        "among": "It calibrates on plates that it also judges, and one draw moves by a point "
        "either way: for a strategy's worth, take the table above.",
        "apart": "One draw moves by a point either way: for a strategy's worth, take the table "
        "above.",
        "model": "model",
        "figure": "Exact match by strategy and chip, with intervals",
        "from": "From `{study}` (TPU-MLIR {tool}, run on the {backend}) and `{report}` "
        "(made {date}, revision {revision}), by `python -m lprnet_nb.report.readme`.",
    },
    "zh": {
        "headline": "整牌准确率（{chips}）：厂商公布的自家 INT8 模型为 **{vendors}**，"
        "编译器默认设置为 **{kl}**，本项目推荐策略为 **{best}**；"
        "浮点模型为 {float:.3f}。同样的模型按车牌语法解码，为 **{plate}**"
        "（浮点 {float_plate:.3f}）；每张车牌看三次，浮点为 {views:.3f}。"
        "策略的选择与评测用不同的车牌（嵌套）；按语法解码的一步例外，"
        "其策略由同一批车牌的贪心读数选出；"
        "校准图片从不参与评测。",
        "headline_figure": "逐步的整牌准确率：厂商公布值、编译器默认、推荐策略、车牌语法、看三次",
        "study": "在 {images:,} 张公开测试车牌上的整牌准确率；浮点模型为 {float:.3f}，"
        "配合车牌语法为 "
        "{float_plate:.3f}。INT8 为 {draws} 次校准抽样的均值，括号内为最低与最高；"
        "校准图片从不参与评测"
        "（两折交叉），推荐策略在选择时未见过的车牌上评测（嵌套交叉验证）：",
        "vendor": "INT8，厂商公布值",
        "kl": "INT8，编译器默认（KL）",
        "mse": "INT8，最小均方误差（MSE）",
        "best": "**INT8，推荐策略**",
        "plate": "同上，按车牌语法解码",
        "views": "每张车牌**看三次**并按车牌语法解码，"
        "浮点模型为 {views}（[docs/decoding.md](docs/decoding.md)）。",
        "float": "浮点（PyTorch）",
        "none": "–",
        "chosen": "推荐策略：{names}。在选出它的同一批车牌上（{many} 种策略中最好的一种），读数为 "
        "{selected}，略高于它的真实水平。",
        "times": "单次调用耗时（毫秒，batch 1）：编译器预测值，→ 折算到厂商板卡上的耗时，"
        "以及厂商实测值"
        "（`bmrt_test`）。预测值不含每次调用的固定开销：{fixed}；该开销由厂商公布的耗时拟合得到，"
        "误差在 {worst} 以内：",
        "fixed": "{chip} 为 {ms:.2f} ms",
        "worst": "{chip} {share}",
        "measured": "实测",
        "tips": "这些建议成立吗？下表为准确率变化（百分点）及 95 % 区间；"
        "区间不含零者以**粗体**标出：",
        "tip": "建议",
        "on": "基准",
        "elsewhere": "别处，{chip}",
        "worlds": "**别处**：在另外 {count} 种情形中，该建议成立 / 不成立 / 无法判断的各有几种，"
        "判据相同（笔记本 06）。这些情形是：本项目自己的权重读照片；两套权重读 {generated:,} 张"
        "生成车牌，"
        "以及检测框留出宽度 5、10、20 %（高度加倍）边距的照片；{draws} 次校准抽样，数据来自 "
        "`{path}`（`lprnet-nb study {path} --worlds all`）。",
        "report": "完整运行一次（单次校准抽样，{command}）：整牌准确率，贪心解码 / 车牌语法解码，"
        "batch 1。"
        "{calibrated}",
        "among": "此次运行的校准图片同时参与评测，且单次抽样有约一个百分点的波动；"
        "策略的优劣请看上表。",
        "apart": "单次抽样有约一个百分点的波动；策略的优劣请看上表。",
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
            "换一种阈值方法（mse）",
            "forked 之上，首层与全局上下文保留浮点",
            "forked 之上，第一个块与上下文的平方保留浮点",
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
    plate_study
        The same read with the grammar of plates.
    rows, manifest
        The report's.
    calibration_among_judged
        Whether the report calibrated on plates that it also judges.
    worlds, worlds_path
        `study.replication.lines` of the study over worlds, none without, and where it lies.
    """

    study: dict[str, Any]
    plate_study: dict[str, Any]
    study_path: str
    report_path: str
    rows: Sequence[Row]
    manifest: Manifest
    calibration_among_judged: bool
    worlds: Sequence[dict[str, Any]] = ()
    worlds_path: str = ""


def read_runs() -> Runs:
    """Read the newest study in ``data/studies/`` and the newest report in ``data/reports/``.

    Raises
    ------
    DataError
        When one of them is missing.
    """
    root = repository()
    study, plate_study = committed_path(), committed_study("plate")
    reports = sorted((root / "data" / "reports").glob("*/metrics.json"))
    if study is None or plate_study is None or not reports:
        raise DataError(
            f"{root / 'data'} holds no committed study or no report. Both come with "
            "the repository: check it out whole."
        )
    folder = reports[-1].parent
    metrics = read_metrics(reports[-1])
    return Runs(
        read_study(study),
        plate_study,
        study.relative_to(root).as_posix(),
        folder.relative_to(root).as_posix(),
        metrics.rows,
        read_manifest(folder / "manifest.json"),
        metrics.data is None or metrics.data.calibration.among_evaluated,
        replicated() or (),
        path.relative_to(root).as_posix() if (path := worlds_path()) else "",
    )


def headline(runs: Runs, language: str) -> str:
    """What stands at the top of a README: one sentence of two chips, and the figure of all."""
    say = WORDS[language]
    best = {found["chip"]: found for found in recommendations(runs.study)}
    means, plate = _means(runs.study), _means(runs.plate_study)

    def listed(values: Iterable[float | None]) -> str:
        return " / ".join(say["none"] if one is None else f"{one:.3f}" for one in values)

    sentence = say["headline"].format(
        chips=" / ".join(HEADLINE_CHIPS),
        vendors=listed(_published_int8(chip) for chip in HEADLINE_CHIPS),
        kl=listed(means["kl", chip][0] for chip in HEADLINE_CHIPS),
        best=listed(best[chip]["unbiased"]["mean"] for chip in HEADLINE_CHIPS),
        plate=listed(plate[best[chip]["strategy"], chip][0] for chip in HEADLINE_CHIPS),
        float=runs.study["float"]["correct"] / runs.study["float"]["images"],
        float_plate=runs.plate_study["float"]["correct"] / runs.plate_study["float"]["images"],
        views=THREE_LOOKS,
    )
    return f"{sentence}\n\n![{say['headline_figure']}](docs/figures/headline.svg)"


def results(runs: Runs, language: str) -> str:
    """The block of a README, Markdown, in ``"en"`` or ``"zh"``."""
    say = WORDS[language]
    best = recommendations(runs.study)
    reads = runs.study["float"]
    among = runs.calibration_among_judged
    parts = [
        say["study"].format(
            images=reads["images"],
            float=reads["correct"] / reads["images"],
            float_plate=runs.plate_study["float"]["correct"] / runs.plate_study["float"]["images"],
            draws=max(found["draws"] for found in best),
        ),
        markdown(_accuracy_table(runs, best, say)),
        _chosen(runs.study, best, say) + " " + say["views"].format(views=f"{THREE_LOOKS:.3f}"),
        f"![{say['figure']}](docs/figures/results.svg)",
        _times_sentence(say, language),
        markdown(_times_table(runs.rows, best, say)),
        say["tips"],
        markdown(_tip_table(runs, [found["chip"] for found in best], say, language)),
        *_worlds_sentence(runs, say),
        say["report"].format(
            command="`scripts/report.sh --profile full`",
            calibrated=say["among" if among else "apart"],
        ),
        markdown(_report_table(runs.rows, say)),
        say["from"].format(
            study=runs.study_path,
            tool=runs.study["provenance"]["tpu_mlir"],
            backend=runs.study["provenance"]["backend"],
            report=runs.report_path,
            date=str(runs.manifest.created)[:10],
            revision=(runs.manifest.revision or "?")[:7],
        ),
    ]
    return "\n\n".join(parts)


def _accuracy_table(
    runs: Runs, best: Sequence[dict[str, Any]], say: dict[str, str]
) -> list[list[str]]:
    """The vendor's figure, the compiler's default, least squares, and the recommendation."""
    known = {
        (line["strategy"], line["chip"]): line
        for line in summarize(runs.study)
        if line["scheme"] == CROSS_FIT and "mean" in line
    }
    read = {
        (line["strategy"], line["chip"]): line
        for line in summarize(runs.plate_study)
        if line["scheme"] == CROSS_FIT and "mean" in line
    }
    chips = [found["chip"] for found in best]
    plates = [read.get((found["strategy"], found["chip"])) for found in best]
    return [
        ["", *chips],
        [say["vendor"], *(_vendors(chip, say) for chip in chips)],
        [say["kl"], *(_over_draws(known.get(("kl", chip)), say) for chip in chips)],
        [say["mse"], *(_over_draws(known.get(("mse", chip)), say) for chip in chips)],
        [say["best"], *(f"**{_over_draws(found['unbiased'], say)}**" for found in best)],
        [say["plate"], *(_over_draws(line, say) for line in plates)],
    ]


def _vendors(chip: str, say: dict[str, str]) -> str:
    found = _published_int8(chip)
    return say["none"] if found is None else f"{found:.3f}"


def _published_int8(chip: str) -> float | None:
    """What the vendor publishes for its own INT8 model at batch 1."""
    return next(
        (
            row.exact_match
            for row in published_accuracy(chip, "int8")
            if (row.source, row.batch) == (LATEST, 1) and row.program in OURS
        ),
        None,
    )


def _over_draws(line: dict[str, Any] | None, say: dict[str, str]) -> str:
    return f"{line['mean']:.3f} ({line['low']:.3f}–{line['high']:.3f})" if line else say["none"]


def _chosen(study: dict[str, Any], best: Sequence[dict[str, Any]], say: dict[str, str]) -> str:
    by_name: dict[str, list[str]] = {}
    for found in best:
        by_name.setdefault(found["strategy"], []).append(found["chip"])
    names = "; ".join(f"{', '.join(chips)} `{name}`" for name, chips in by_name.items())
    many = max(len(candidates(study, found["chip"])[0]) for found in best)
    selected = " / ".join(f"{found['mean']:.3f}" for found in best)
    return say["chosen"].format(names=names, many=many, selected=selected)


def _times_sentence(say: dict[str, str], language: str) -> str:
    between = ", " if language == "en" else "，"
    costs = call_costs()
    return say["times"].format(
        fixed=between.join(say["fixed"].format(chip=c, ms=v.fixed_ms) for c, v in costs.items()),
        worst=between.join(
            say["worst"].format(chip=c, share=f"{100 * v.worst:.1f} %") for c, v in costs.items()
        ),
    )


def _times_table(
    rows: Sequence[Row], best: Sequence[dict[str, Any]], say: dict[str, str]
) -> list[list[str]]:
    """Predicted, what that comes to on the board, and measured, of the batch-1 models."""
    costs, chips = call_costs(), [found["chip"] for found in best]
    models = list(
        dict.fromkeys(
            (row.precision, row.strategy) for row in rows if row.chip in costs and row.batch == 1
        )
    )

    def cell(chip: str, precision: str, strategy: str | None) -> str:
        predicted = next(
            (
                row.predicted_latency_ms
                for row in rows
                if (row.chip, row.precision, row.strategy, row.batch)
                == (chip, precision, strategy, 1)
            ),
            None,
        )
        measured = next(
            (
                one.bmrt_test_ms_per_image
                for one in published_latency(chip, precision)
                if (one.source, one.batch) == (LATEST, 1) and strategy in (None, VENDORS_STRATEGY)
            ),
            None,
        )
        told = f"{say['measured']} {measured:.3f}" if measured is not None else ""
        if predicted is None or chip not in costs:
            return told or say["none"]
        expected = f"{predicted:.3f} → {costs[chip].expected_ms(predicted):.2f}"
        return f"{expected}, {told}" if told else expected

    return [
        [say["model"], *chips],
        *(
            [
                precision.upper() + (f", `{strategy}`" if strategy else ""),
                *(cell(chip, precision, strategy) for chip in chips),
            ]
            for precision, strategy in models
        ),
    ]


def _tip_table(
    runs: Runs, chips: Sequence[str], say: dict[str, str], language: str
) -> list[list[str]]:
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for line in verdicts(runs.study):
        if line["tip"] in TOLD:
            low, high = (100 * end for end in line["interval"])
            text = f"{100 * line['difference']:+.1f} ({low:+.1f} … {high:+.1f})".replace("-", MINUS)
            rows.setdefault((line["tip"], line["strategy"], line["baseline"]), {})[line["chip"]] = (
                f"**{text}**" if low > 0 or high < 0 else text
            )
    order = sorted(rows, key=lambda key: TOLD.index(key[0]))
    said = TIPS_ZH if language == "zh" else dict(zip(TOLD, TOLD))
    used = [chip for chip in chips if any(chip in row for row in rows.values())]
    elsewhere = {
        (one["chip"], one["tip"], one["strategy"], one["baseline"]): " / ".join(
            str(one[verdict]) for verdict in VERDICTS
        )
        for one in counts(runs.worlds)
    }
    there = list(dict.fromkeys(chip for chip, *_ in elsewhere))
    return [
        [say["tip"], say["on"], *used, *(say["elsewhere"].format(chip=chip) for chip in there)],
        *(
            [
                said[key[0]],
                f"`{key[2]}`",
                *(rows[key].get(chip, say["none"]) for chip in used),
                *(elsewhere.get((chip, *key), say["none"]) for chip in there),
            ]
            for key in order
        ),
    ]


def _worlds_sentence(runs: Runs, say: dict[str, str]) -> list[str]:
    """What the columns of other worlds mean; nothing where there are none."""
    others = [line for line in runs.worlds if (line["plates"], line["weights"]) != COMMITTED]
    if not others:
        return []
    draws = sorted({line["draws"] for line in others})
    return [
        say["worlds"].format(
            count=len({(line["plates"], line["weights"]) for line in others}),
            generated=JUDGED,
            draws=draws[0] if len(draws) == 1 else f"{draws[0]}–{draws[-1]}",
            path=runs.worlds_path,
        )
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
        return " / ".join(f"{read[decoder].exact_match:.3f}" for decoder in ("greedy", "plate"))

    models = list(dict.fromkeys((row.precision, row.strategy) for row in single if row.chip))
    table = [[say["model"], *chips], [say["float"], *[cell(None, "fp32", None)] * len(chips)]]
    for precision, strategy in models:
        name = precision.upper() + (f", `{strategy}`" if strategy else "")
        table.append([name, *(cell(chip, precision, strategy) for chip in chips)])
    return table


def results_figure(runs: Runs) -> Figure:
    """Exact match of the compiler's default, least squares and the recommendation, by chip."""
    best = {found["chip"]: found for found in recommendations(runs.study)}
    chosen = []
    for line in summarize(runs.study):
        if line["scheme"] != CROSS_FIT or "mean" not in line:
            continue
        for strategy, name in (
            ("kl", "compiler's default (KL)"),
            ("mse", "least squared error"),
            (best[line["chip"]]["strategy"], "recommended"),
        ):
            if line["strategy"] == strategy:
                nested = best[line["chip"]]["unbiased"] if name == "recommended" else {}
                values = {key: nested[key] for key in ("mean", "low", "high") if key in nested}
                if nested:  # as wide, around the figure that is shown
                    shift = nested["mean"] - line["mean"]
                    values["interval"] = [end + shift for end in line["interval"]]
                chosen.append({**line, **values, "strategy": name})
    order = ("compiler's default (KL)", "least squared error", "recommended")
    chosen.sort(key=lambda line: order.index(line["strategy"]))
    reference = runs.study["float"]["correct"] / runs.study["float"]["images"]
    return study_figures.accuracy(chosen, reference)


def headline_figure(runs: Runs) -> Figure:
    """Vendor, float, the compiler's default, the recommendation, the grammar, three looks."""
    best = recommendations(runs.study)
    means = _means(runs.study)
    plate = _means(runs.plate_study)
    chips = [found["chip"] for found in best]
    float_reads, float_plate = (
        study["float"]["correct"] / study["float"]["images"]
        for study in (runs.study, runs.plate_study)
    )
    vendors = {chip: _published_int8(chip) for chip in chips}
    return study_figures.staircase(
        [
            study_figures.Step("float", {}, float_reads),
            study_figures.Step(
                "INT8,\nthe vendor's own",
                {chip: (read,) * 3 for chip, read in vendors.items() if read is not None},
                float_reads,
            ),
            study_figures.Step(
                "INT8, the\ncompiler's default",
                {chip: means["kl", chip] for chip in chips if ("kl", chip) in means},
                float_reads,
            ),
            study_figures.Step(
                "INT8,\nrecommended",
                {
                    found["chip"]: tuple(found["unbiased"][key] for key in ("mean", "low", "high"))
                    for found in best
                },
                float_reads,
            ),
            study_figures.Step(
                "… read with\nthe grammar",
                {
                    found["chip"]: plate[found["strategy"], found["chip"]]
                    for found in best
                    if (found["strategy"], found["chip"]) in plate
                },
                float_plate,
            ),
            study_figures.Step("three looks,\nin float", {}, THREE_LOOKS),
        ]
    )


def _means(study: dict[str, Any]) -> dict[tuple[str, str], tuple[float, float, float]]:
    """Mean, lowest and highest over draws by strategy and chip, calibration apart."""
    return {
        (line["strategy"], line["chip"]): (line["mean"], line["low"], line["high"])
        for line in summarize(study)
        if line["scheme"] == CROSS_FIT and "mean" in line
    }


def source_digest(runs: Runs) -> str:
    """What the figure was drawn from, for its metadata: SHA-256 of the study's file."""
    return file_digest(repository() / runs.study_path)


def write_readmes(root: Path) -> list[Path]:
    """Rewrite the blocks and the pictures below `root`, and say which files were written.

    Raises
    ------
    DataError
        When a README has no place for them.
    """
    runs, written = read_runs(), []
    for name, language in READMES.items():
        text = (root / name).read_text("utf8")
        made = {"headline": headline(runs, language), "results": results(runs, language)}
        text = filled(text, made)
        written.append(atomic_write(root / name, text))
    drawn = {
        "workflow": figures.workflow(),
        "results": results_figure(runs),
        "headline": headline_figure(runs),
    }
    for name, figure in drawn.items():
        about = name if name == "workflow" else source_digest(runs)
        data = figures.as_svg(figure, Description=about)
        written.append(atomic_write(root / "docs" / "figures" / f"{name}.svg", data))
    return written


if __name__ == "__main__":
    for path in write_readmes(repository()):
        print(path)
