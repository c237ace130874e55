"""Wrong code, put in on purpose: for each change the quick tests that notice it.

A change is a text of the package, what it becomes, and pytest targets that must then fail. The file
is the one in `lprnet_nb` that has the text, exactly once; a stretch of white space stands for any
other, so that moving and reformatting code leaves the list as it is.
"""

from __future__ import annotations

from typing import NamedTuple


class Change(NamedTuple):
    """One piece of wrong code.

    Attributes
    ----------
    name
        What goes wrong.
    before, after
        Text of the package, and what it becomes.
    tests
        Pytest targets, of which at least one test must fail.
    may_be_gone
        Whether the function may be removed from the package, and its tests with it.
    """

    name: str
    before: str
    after: str
    tests: str
    may_be_gone: bool = False


CACHE = "tests/test_cache_hostile.py"
APART = "tests/measure/test_calibration_apart.py"
SOURCES = "tests/datasets/test_label_sources.py"
ROWS = "tests/measure/test_row_columns.py"
CROSSCHECK = "tests/runtime/test_crosscheck.py"
FIELDS = "tests/toolchain/test_strategy_fields.py"
LAYERS = "tests/toolchain/test_layers.py"
NETWORKS = "tests/model/test_network_file.py"
PAGE = "tests/report/test_page_numbers.py"
HOSTILE = "tests/report/test_hostile_notebooks.py"
FIGURES = "tests/figures/test_figure_values.py"
STUDY = "tests/study/test_study.py"
WORLDS = "tests/study/test_worlds.py"
KEY = 'exclude={"name", "about", "finetune"})'

# The changes that passed all quick tests once.
FOUND = (
    Change(
        "a key of 4 hex digits",
        "_KEY_LENGTH = 20",
        "_KEY_LENGTH = 4",
        f"{CACHE}::test_keys_are_long_enough_to_be_unique",
    ),
    Change(
        "a digest of arrays without their type",
        'f"{array.dtype.str}{array.shape}"',
        'f"{array.shape}"',
        f"{CACHE}::test_arrays_of_the_same_bytes_have_digests_of_their_own",
    ),
    Change(
        "leftovers of killed builds stay",
        'for left in folder.parent.glob(f".{folder.name}.*"):',
        "for left in ():",
        f"{CACHE}::test_a_killed_builds_leftovers_go_and_others_stay",
    ),
    Change(
        "an artifact's names may lead out of its folder",
        "if not target.is_relative_to(temporary.resolve()):",
        "if False:",
        f"{CACHE}::test_a_name_that_leads_out_is_refused_and_nothing_is_written",
    ),
    Change(
        "of several label files one is taken",
        "if len(paths) > 1:",
        "if len(paths) > 99:",
        f"{SOURCES}::test_a_label_file_goes_before_one_beside_before_names_and_two_are_refused",
    ),
    Change(
        "a byte order mark is part of the first name",
        "_decoded(raw[len(mark) :], encoding",
        "_decoded(raw, encoding",
        f"{SOURCES}::test_a_byte_order_mark_is_no_part_of_the_first_name",
    ),
    Change(
        "crops are resized by area",
        "return cv2.resize(image, size[::-1])",
        "return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)",
        f"{SOURCES}::test_other_sizes_are_resized_between_the_nearest_pixels",
    ),
    Change(
        "calibration images from the end of the order",
        "return self.order[:count]",
        "return self.order[-count:]",
        f"{APART}::test_calibration_takes_the_order_from_its_start",
    ),
    Change(
        "the same order for every fold",
        "np.random.default_rng([draw, 1, fold])",
        "np.random.default_rng([draw, 1])",
        f"{APART}::test_draws_and_folds_have_orders_of_their_own",
    ),
    Change(
        "generated calibration plates are the judged ones",
        "kept_plates(GENERATED_IMAGES, seed=1)",
        "kept_plates(GENERATED_IMAGES, seed=0)",
        f"{APART}::test_a_report_on_generated_plates[7]",
    ),
    Change(
        "agreement with the labels in place of float",
        "exact_match(base.readings.texts, readings.texts)",
        "exact_match(plates.labels, readings.texts)",
        ROWS,
    ),
    Change(
        "McNemar's test of a model against itself",
        "mcnemar_exact(base.correct, right)",
        "mcnemar_exact(right, right)",
        ROWS,
    ),
    Change(
        "SQNR with its operands swapped",
        "sqnr_db(base.inference.logits, inference.logits)",
        "sqnr_db(inference.logits, base.inference.logits)",
        ROWS,
    ),
    Change(
        "the latency of a call divided by the batch",
        '"predicted_latency_ms": item.bmodel.predicted_latency_ms',
        '"predicted_latency_ms": item.bmodel.predicted_latency_ms / item.traced.batch',
        ROWS,
    ),
    Change(
        "character accuracy of the labels with themselves",
        "character_accuracy(labels, texts)",
        "character_accuracy(labels, labels)",
        ROWS,
    ),
    Change(
        "a study calibrates on the judged plates",
        "return plates.images[split.calibrate(count)]",
        "return plates.images[split.evaluate[:count]]",
        f"{APART}::test_every_fold_of_every_draw_of_a_study",
    ),
    Change(
        "the simulator's logits are always identical",
        '"identical": bool((mine == judge).all())',
        '"identical": True',
        CROSSCHECK,
    ),
    Change(
        "the simulator's classes are always the same",
        '"same_classes": bool((mine.argmax(1) == judge.argmax(1)).all())',
        '"same_classes": True',
        CROSSCHECK,
    ),
    Change(
        "blanks count as characters in the cross-check",
        "return path[begins & (path != blank)].tolist()",
        "return path[begins].tolist()",
        CROSSCHECK,
    ),
    Change(
        "the simulator's sample is rounded down",
        "-(-images // batch) * batch",
        "images // batch * batch",
        f"{CROSSCHECK}::test_a_sample_is_whole_batches",
    ),
    Change("a key without float_roles", KEY, KEY.replace("{", '{"float_roles", '), FIELDS),
    Change("a key without symmetric", KEY, KEY.replace("{", '{"symmetric", '), FIELDS),
    Change("a key without channel_order", KEY, KEY.replace("{", '{"channel_order", '), FIELDS),
    Change("a key without tune", KEY, KEY.replace("{", '{"tune", '), FIELDS),
    Change(
        "the forest's line is the first compiled row",
        "next((point for _, row, point, _ in rows if row.chip is None), None)",
        "next((point for _, row, point, _ in rows if row.chip is not None), None)",
        f"{PAGE}::test_the_forest_is_to_scale",
    ),
    Change(
        "a bar of the forest begins at its point",
        '"low": place(interval[0])',
        '"low": place(point)',
        f"{PAGE}::test_the_forest_is_to_scale",
    ),
    Change(
        "the latency of an image is that of a call",
        '"per_image": None if expected is None else expected / row.batch',
        '"per_image": expected',
        f"{PAGE}::test_latency_is_of_a_call_and_of_an_image",
    ),
    Change(
        "what the board takes leaves out the fixed cost of a call",
        "return None if cost is None or predicted_ms is None else cost.expected_ms(predicted_ms, "
        "batch)",
        "return None if cost is None or predicted_ms is None else predicted_ms",
        f"{PAGE}::test_latency_is_of_a_call_and_of_an_image",
    ),
    Change(
        "the steps' float is by another decoder",
        "Stair(name, row.exact_match, reference(read_by), row)",
        "Stair(name, row.exact_match, reference(decoder), row)",
        f"{PAGE}::test_the_steps_are_those_of_the_rows",
    ),
    Change(
        "host time is inference only",
        '"total": sum(value or 0 for value in parts.values())',
        '"total": parts["inference"] or 0',
        f"{PAGE}::test_host_times_are_those_of_timings_json",
    ),
    Change(
        "notebooks load images over http",
        'not value.startswith("data:image/")',
        'not value.startswith(("data:image/", "http:", "https:"))',
        HOSTILE,
    ),
    Change(
        "notebooks link to data: addresses",
        'plain.startswith("data:")',
        'plain == "never"',
        HOSTILE,
    ),
    Change(
        "reliability with its axes swapped",
        "_interval_points(spot, bins.confidence, bins.accuracy,",
        "_interval_points(spot, bins.accuracy, bins.confidence,",
        f"{FIGURES}::test_reliability_has_confidence_across_and_accuracy_up",
    ),
    Change(
        "a predicted latency is shown as published",
        'axes.plot(row["published_ms"], place, "D"',
        'axes.plot(row["predicted_ms"] or 1, place, "D"',
        f"{FIGURES}::test_latency_keeps_predicted_and_published_apart",
    ),
    Change(
        "quantization noise of the step below",
        "np.rint(inside / step)",
        "np.floor(inside / step)",
        f"{FIGURES}::test_noise_is_of_the_nearest_step",
    ),
    Change(
        "a strategy's mean is drawn at its lowest draw",
        'axes.plot(line["mean"], place,',
        'axes.plot(line["low"], place,',
        f"{FIGURES}::test_study_shows_mean_draws_and_interval",
    ),
    Change(
        "a tip's gain has the other sign",
        "{mark} {100 * line['difference']:+.1f}{few}",
        "{mark} {-100 * line['difference']:+.1f}{few}",
        "tests/study/test_study.py::test_one_matrix_has_every_verdict",
    ),
    Change(
        "tables of two digits",
        "limit = 4 if most < 1 else 3",
        "limit = 2 if most < 1 else 1",
        "tests/measure/test_output.py",
    ),
)

# More of the same kind: numbers that reach a reader, and what decides whether they may be believed.
MORE = (
    Change(
        "one whole file makes an artifact intact",
        "and all(file_digest(folder / name) == value",
        "and any(file_digest(folder / name) == value",
        f"{CACHE}::test_what_arrives_damaged_is_refused",
    ),
    Change(
        "a BModel's key without its strategy",
        '"strategy": strategy.key() if strategy else None,',
        '"strategy": None,',
        f"{FIELDS}::test_two_strategies_never_share_a_bmodel",
    ),
    Change(
        "a BModel's key without its thresholds",
        '"table": table.digest if table else None,',
        '"table": None,',
        f"{FIELDS}::test_two_strategies_never_share_a_bmodel",
    ),
    Change("a key without images", KEY, KEY.replace("{", '{"images", '), FIELDS),
    Change("a key without search", KEY, KEY.replace("{", '{"search", '), FIELDS),
    Change(
        "a key of TPU-NNTC without its method",
        'exclude={"name", "about", "load_dist"})',
        'exclude={"name", "about", "load_dist", "th_method"})',
        FIELDS,
    ),
    Change(
        "a table's key without the channel order",
        '"bias_correction": self.bias_correction, "channel_order": self.channel_order,',
        '"bias_correction": self.bias_correction,',
        FIELDS,
    ),
    Change(
        "a report calibrates on all its plates",
        "pool = everything if overlap else everything.take(rest)",
        "pool = everything",
        f"{APART}::test_a_report_on_a_folder",
    ),
    Change(
        "an overlap of calibration is not said",
        '"among_evaluated": self.overlap',
        '"among_evaluated": False',
        f"{APART}::test_where_too_few_are_left_the_overlap_is_said",
    ),
    Change(
        "a study's generated calibration plates are the judged ones of a report",
        "generate_plates(count, GENERATED_SEED + split.draw, workers=0)",
        "generate_plates(count, 0, workers=0)",
        f"{APART}::test_generated_plates_of_different_use_are_different_plates",
    ),
    Change(
        "every draw calibrates on the same generated plates",
        "GENERATED_SEED + split.draw",
        "GENERATED_SEED",
        f"{APART}::test_generated_plates_of_different_use_are_different_plates",
    ),
    Change(
        "every draw of a study has the same folds",
        "np.random.default_rng([seed, 0])",
        "np.random.default_rng([0, 0])",
        f"{APART}::test_draws_and_folds_have_orders_of_their_own",
    ),
    Change(
        "an interval of 90 % in a row",
        "list(wilson(int(right.sum()), count))",
        "list(wilson(int(right.sum()), count, 0.9))",
        ROWS,
    ),
    Change(
        "the cosine of float with itself",
        "cosine(base.inference.logits, inference.logits)",
        "cosine(base.inference.logits, base.inference.logits)",
        ROWS,
    ),
    Change("three decimals in metrics.json", "ROUND = 6", "ROUND = 3", ROWS),
    Change(
        "the images of a row are those of the pool",
        '"images": count, "exact_match"',
        '"images": len(data.pool), "exact_match"',
        ROWS,
    ),
    Change(
        "milliseconds of a batch",
        "1000 * seconds[stage] / len(plates) for stage in (",
        "1000 * seconds[stage] / item.traced.batch for stage in (",
        f"{ROWS}::test_milliseconds_are_of_an_image",
    ),
    Change(
        "the mean difference of logits for the largest",
        '"max_abs_difference": float(np.abs(mine - judge).max()), "same_classes"',
        '"max_abs_difference": float(np.abs(mine - judge).mean()), "same_classes"',
        CROSSCHECK,
    ),
    Change(
        "a study tests strategies against themselves",
        "(line, mcnemar_exact(right, reference))",
        "(line, mcnemar_exact(right, right))",
        f"{STUDY}::test_summary_agrees_with_scipy_and_statsmodels",
    ),
    Change(
        "a difference of float less the model",
        "difference, limit = (counts.c - counts.b) / images,",
        "difference, limit = (counts.b - counts.c) / images,",
        "tests/evaluate/test_decision.py",
    ),
    Change(
        "a loss is judged by the point, not by its interval",
        "if low > limit:",
        "if difference > limit:",
        "tests/evaluate/test_decision.py",
    ),
    Change(
        "the interval of a loss is the model's own",
        "low, high = paired_difference(counts.b, counts.c, images)",
        "low, high = paired_difference(counts.c, counts.b, images)",
        "tests/evaluate/test_decision.py",
    ),
    Change(
        "a gate lets through what too few plates cannot tell",
        'one.state not in ("same", "within")',
        'one.state == "not within"',
        "tests/report/test_verdict.py",
    ),
    Change(
        "shares of two decimals",
        'return "–" if value is None else f"{value:.3f}"',
        'return "–" if value is None else f"{value:.2f}"',
        f"{PAGE}::test_the_main_table_is_metrics_json",
    ),
    Change(
        "a bar of the forest is as wide as its upper end",
        '"width": round(place(interval[1]) - place(interval[0]), 3)',
        '"width": round(place(interval[1]), 3)',
        f"{PAGE}::test_the_forest_is_to_scale",
    ),
    Change(
        "a point of the forest stands at its lower end",
        '"point": place(point)',
        '"point": place(interval[0])',
        f"{PAGE}::test_the_forest_is_to_scale",
    ),
    Change(
        "the years of published figures are swapped",
        'LATEST = "sophon-demo 2024-10"',
        'LATEST = "sophon-demo 2022-11"',
        f"{PAGE}::test_published_figures_stand_beside_ours",
    ),
    Change(
        "readings of float and of a BModel are swapped",
        '(name, str(floats.get(name, "")), str(text))',
        '(name, str(text), str(floats.get(name, "")))',
        f"{PAGE}::test_differences_are_those_of_the_results",
    ),
    Change(
        "agreement is shown as exact match",
        "made(row.agreement_with_float | share",
        "made(row.exact_match | share",
        f"{PAGE}::test_the_main_table_is_metrics_json",
    ),
    Change(
        "latencies are sorted by something else",
        '"{{ row.predicted_latency_ms | number_sort }}">{{ board(row.predicted_latency_ms, ',
        '"{{ row.logits_sqnr_db | number_sort }}">{{ board(row.predicted_latency_ms, ',
        f"{PAGE}::test_the_main_table_is_metrics_json",
    ),
    Change(
        "bars of layers are a hundredth as long",
        "(100 * layer.cycles / cycles)",
        "(layer.cycles / cycles)",
        f"{PAGE}::test_a_bmodels_page_is_its_facts",
    ),
    Change(
        "the forest's error bars are the wrong way round",
        "xerr=[[share - low], [high - share]]",
        "xerr=[[high - share], [share - low]]",
        f"{FIGURES}::test_forest_rows_have_their_own_share_interval_and_published_figure",
    ),
    Change(
        "plates won are drawn as lost",
        "axes.barh(places, -lost,",
        "axes.barh(places, -won,",
        f"{FIGURES}::test_paired_counts_are_on_their_own_side",
    ),
    Change(
        "megabytes of 1,048,576 bytes",
        "size = np.array([row[part] for row in rows]) / 1e6",
        "size = np.array([row[part] for row in rows]) / 2**20",
        f"{FIGURES}::test_memory_is_stacked_in_megabytes",
    ),
    Change(
        "what does not saturate is counted as what does",
        "beyond = (flat > threshold).mean()",
        "beyond = (flat < threshold).mean()",
        f"{FIGURES}::test_histogram_counts_and_thresholds",
    ),
    Change(
        "plates that read alike are marked",
        'axes.plot(loss[wrong], y[wrong], "x"',
        'axes.plot(loss[~wrong], y[~wrong], "x"',
        f"{FIGURES}::test_fidelity_marks_what_reads_differently",
    ),
    Change(
        "coverage and accuracy are swapped",
        "axes.step(100 * curve.coverage[shown], curve.accuracy[shown],",
        "axes.step(100 * curve.accuracy[shown], curve.coverage[shown],",
        f"{FIGURES}::test_coverage_runs_from_all_plates_to_few",
    ),
    Change(
        "roles in float are shown as quantized",
        '((left, "float", phrase("only this role in float"))',
        '((left, "int8", phrase("only this role in float"))',
        f"{FIGURES}::test_roles_are_in_the_panel_of_their_mode",
    ),
    Change(
        "pictures keep their blue and red swapped",
        "return image[..., ::-1]",
        "return image",
        f"{FIGURES}::test_crops_are_in_rgb_under_their_texts",
    ),
    Change(
        "a user's network is no part of its weights' key",
        'of = {"network": self.of.digest} if self.of.digest else {}',
        "of: dict[str, str] = {}",
        f"{NETWORKS}::test_the_key_is_of_the_network_and_of_all_that_is_said_of_it",
    ),
    Change(
        "a network's mean is no part of its key",
        '"interface": interface.described(), "classes": alphabet.listed, "blank"',
        '"interface": interface.layout, "classes": alphabet.listed, "blank"',
        f"{NETWORKS}::test_the_key_is_of_the_network_and_of_all_that_is_said_of_it",
    ),
    Change(
        "RGB networks get BGR",
        'if self.order == "rgb":',
        'if self.order == "RGB":',
        f"{NETWORKS}::test_order_mean_and_scale_are_the_networks",
    ),
    Change(
        "outputs are taken as they are laid out",
        "if self.layout == LAYOUT:",
        "if self.kind:",
        f"{NETWORKS}::test_every_layout_gives_the_same_logits",
    ),
    Change(
        "a fixed batch is not noticed",
        "batches=_takes_batches(model, example, made, interface),",
        "",
        f"{NETWORKS}::test_a_batch_that_is_written_into_the_network_is_all_that_it_takes",
    ),
    Change(
        "the first layer's batch norm is not of it",
        'return [layer["name"], *after]',
        'return [layer["name"]]',
        f"{LAYERS}::test_any_networks_layers_are_found_by_end_name_and_operation",
    ),
    Change(
        "a world judges plates that another draw calibrates on",
        "evaluate = np.sort(order[draws * size :])",
        "evaluate = np.sort(order[size:])",
        f"{WORLDS}::test_draws_calibrate_apart_and_judge_the_same",
    ),
    Change(
        "the study that is asked again counts as a world of its own",
        'others = [x for x in here if (x["plates"], x["weights"]) != COMMITTED]',
        "others = here",
        f"{WORLDS}::test_counts_leave_the_original_out",
    ),
    Change(
        "worlds in which float reads next to nothing are told",
        'line["verdict"] = VERDICTS[-1]',
        "pass",
        f"{WORLDS}::test_where_float_reads_next_to_nothing_nothing_is_told",
    ),
    Change(
        "untuned thresholds come from a tuned pass",
        "if not set(strategy.methods) & set(TUNED_METHODS) and key in tuned:",
        "if key in tuned:",
        f"{WORLDS}::test_thresholds_that_are_not_tuned_share_a_pass_with_those_that_are",
    ),
)
