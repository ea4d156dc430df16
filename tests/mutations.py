"""Would the tests notice? A table of one-line mistakes in every room, seams included, and which tests should see each.

``python tests/mutations.py [-k WORD]`` makes one mistake at a time in a copy of the project and runs these tests there,
on two copies at once; ``-k`` takes those whose room or line has the word. The status is 1 if more than 5 % survive, or
if one does that the table does not explain.
"""

from __future__ import annotations

import argparse
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("bnrepro", "conf", "experiments", "results/reference", "tests", "pyproject.toml", "README.md")
COPIES = 2
LIMIT = 240
"""Seconds after which tests that hang have noticed."""
MOST_SURVIVORS = 0.05


class Mutation(NamedTuple):
    """A mistake, and who should notice."""

    old: str
    """Stands in the room exactly once."""
    new: str
    tests: str
    """A file of tests, and the word by which its tests are chosen, if not all are."""
    survives: str = ""
    """Why, where no test can notice."""


M = Mutation
ROOMS: dict[str, list[Mutation]] = {
    "bnrepro/layers.py": [
        M("math.sqrt(2 / (fan_in + fan_out))", "math.sqrt(2 / fan_out)", "test_layers.py initializers_scale"),
        M("rng, d_in, self.units, (d_in", "rng, self.units, d_in, (d_in", "test_layers.py passes_its_fans"),
        M("rng, c * area, self.channels * area", "rng, c, self.channels", "test_layers.py passes_its_fans"),
        M("used[dense] = True", "pass", "test_layers.py the_bits_of_the_run_in_a_group"),
        M("< SKIPPING_COST * d", "<= SKIPPING_COST * d", "test_layers.py skips_"),
        M("np.zeros(weights.shape", "np.ones(weights.shape", "test_layers.py a_sparse_dense"),
        M("    if len(x) == 1:\n        parts *=", "    if parts:\n        parts *=", "test_layers.py a_sparse_dense"),
        M("dkernel[r] +=", "dkernel[r] =", "test_layers.py products_are_cut"),
        M("o + 1 - taps.shape[1]", "o - taps.shape[1]", "test_layers.py central_differences"),
        M("rows >= 48 and", "", "test_layers.py products_are_small"),
        M("dx[index] += share", "dx[index] = share", "test_layers.py central_differences"),
        M("free ^= largest", "free |= largest", "test_layers.py equal_pixels"),
        M("(np.add, pixels) / count", "(np.add, pixels) / self.size**2", "test_layers.py naive_loop"),
        M("outside = -math.inf", "outside = 0.0", "test_layers.py naive_loop"),
        M("(dy / area)", "dy", "test_layers.py central_differences"),
        M("itertools.accumulate(sizes), sizes", "itertools.accumulate(sizes), sizes[::-1]", "test_layers.py"),
        M("1 / (1 - self.rate), out=", "1, out=", "test_layers.py stated_share"),
        M("counter=[0, 0, 0, drawn]", "counter=[drawn, 0, 0, 0]", "test_layers.py no_stretch"),
        M('state["drawn"] + 1', 'state["drawn"]', "test_layers.py no_stretch"),
        M("Philox(key=key", "Philox(key=0", "test_layers.py dropout"),
        M("math.log(19)", "math.log(9)", "test_layers.py sigmoid_is_inactive"),
        M("(y > 0)", "(y >= 0)", "test_layers.py relu_has_gradient"),
        M("p -= t / examples", "p -= t", "test_layers.py cross_entropy"),
        M("z.max(axis=1, keepdims=True)", "z.max(keepdims=True)", "test_layers.py cross_entropy"),
    ],
    "bnrepro/batchnorm.py": [
        M("weight * (m / (m - 1)) * var", "weight * var", "test_batchnorm.py unbiased"),
        M("var -= square", "var += square", "test_batchnorm.py"),
        M("if (var < square).any()", "if (var < 0).any()", "test_batchnorm.py large_offset_in_a_large_batch"),
        M("np.where(var < square, ", "np.where(var < np.inf, ", "test_batchnorm.py no_offset"),
        M("*(1 for _ in in_shape[1:]))", "*in_shape[1:])", "test_layers.py names_the_shapes"),
        M("m = x[0, :, 0].size", "m = x.shape[1]", "test_batchnorm.py on_images"),
        M(
            "along_rows(dbeta / m - slope * delta, c)",
            "along_rows(-slope * delta, c)",
            "test_batchnorm.py six_formulas",
        ),
        M("replace(self, momentum=1.0)", "replace(self)", "test_network.py population_statistics"),
        M("eps=1e-6, momentum=self.momentum", "eps=1e-6", "test_textbook.py running_statistics"),
        M("train=train_flg and several", "train=train_flg", "test_textbook.py one_value_per_feature"),
        M("0.0 if not begun else 1 / (1 - self.momentum)", "0.0 if not begun else 1.0", "test_textbook.py attributes"),
        M("if self._dtype == np.float16", "if False", "test_textbook.py all_real_numbers"),
        M('if not train and self.inference != "batch"', "if not train", "test_batchnorm.py test_batchs_own"),
        M("least_values = 2", "least_values = 1", "test_config.py two_examples"),
    ],
    "bnrepro/optim.py": [
        M("v -= step", "v -= step * (1 - self.momentum)", "test_optim.py hand_worked"),
        M("self.weight_decay if name in weights.get(layer, ()) else 0.0", "self.weight_decay", "test_optim.py zero_gr"),
        M("(np.sqrt(h) + self.eps)", "np.sqrt(h + self.eps)", "test_optim.py hand_worked"),
        M("(step // self.every)", "(step / self.every)", "test_optim.py factors"),
        M("(step / self.every))", "(step // self.every))", "test_optim.py factors"),
        M("step = g if scaled else _like(lr, p) * g", "step = _like(lr, p) * g", "test_optim.py linear_optimiser"),
        M("decay * _like(lr, p) * p if", "decay * p if", "test_optim.py hand_worked"),
    ],
    "bnrepro/kernels.py": [
        M("then = CONTINUE if op[ADDS] else STORE", "then = STORE", "test_compiled.py branches"),
        M("max(row, 0), bottom", "row, bottom", "test_compiled.py branches"),
        M("[WIDTH] + op[PLACE]\n        _copy", "[WIDTH]\n        _copy", "test_compiled.py branches"),
        M("F(1) / (_exp(-y[i]) + F(1))", "F(1) / (_exp(-y[i]) + F(1.01))", "test_compiled.py one_step"),
        M("(m / (m - F(1)))", "F(1)", "test_compiled.py golden"),
        M("found &= abs(x[i]) <= WIDE_RANGE", "pass", "test_compiled.py hides_no_infinite"),
        M("if count > 0 or end == STORE:", "if count > 0:", "test_compiled.py one_step"),
        M("F(1) if optimizer == ADAGRAD else lr[s]", "lr[s]", "test_compiled.py one_step"),
        M("rate = decay if decays else F(0)", "rate = decay", "test_compiled.py leads_to_the_numbers"),
        M("STORE if image == 0 and p == 0 else CONTINUE", "STORE", "test_compiled.py network_of_images"),
        M(
            "(pad - j + stride - 1) // stride",
            "(pad - j) // stride",
            "test_compiled.py network_of_images",
        ),
        M("not x[c] <= y[c]", "not x[c] < y[c]", "test_compiled.py network_of_images"),
        M("0x3F3504F3", "0x3F800000", "test_compiled.py elementary"),
        M("F(1 / 5040)", "F(1 / 5000)", "test_compiled.py elementary", survives="below the rounding of float32"),
    ],
    "bnrepro/compiled.py": [
        M("math.prod(images.shape[1:])", "-1", "test_compiled.py held_out"),
        M(
            "free.append(held.pop(name))",
            "free.append(held[name])\n                free.append(0)",
            "test_compiled.py branches",
        ),
        M("ADDS] = source in held", "ADDS] = False", "test_compiled.py branches"),
        M("and at[source] not in activated", "", "test_compiled.py branches"),
        M("if op[X] in activated else op[X]", "if not op[X] else op[X]", "test_compiled.py one_step"),
        M("Diverged(begin + step,", "Diverged(step,", "test_compiled.py golden"),
        M("self.spec.lr_schedule(step) for", "self.spec.lr_schedule(0) for", "test_compiled.py leads_to_the_numbers"),
        M("drawn + step, (", "drawn, (", "test_compiled.py leads_to_the_numbers"),
        M("axes = (3, 2, 0, 1)", "axes = (3, 2, 1, 0)", "test_compiled.py network_of_images"),
        M("name) in weights)", "name) not in weights)", "test_compiled.py leads_to_the_numbers"),
        M("moved=plan.gradients", "moved=0", "test_compiled.py one_step"),
    ],
    "bnrepro/memory.py": [
        M("if not mallopt(", "if mallopt(", "test_memory.py largest_threshold"),
    ],
    "bnrepro/network.py": [
        M("chosen[start : start + at_once]", "chosen[start : start + at_once - 1]", "test_training.py accuracy"),
        M("sparse=i == 1", "sparse=True", "test_network.py skips_features"),
        M("if len(shape) > 1), default", "), default", "test_sweeping.py stay_in_cache"),
        M("in enumerate(hidden, start=1)", "in enumerate(hidden[::-1], start=1)", "test_recipe.py hidden_layers"),
        M("in enumerate(channels, start=1)", "in enumerate(channels[::-1], start=1)", "test_recipe.py stages"),
        M('f"dropout{i}"] = Dropout(dropout)', 'f"dropout{i}"] = Dropout(dropout / 2)', "test_recipe.py dropout"),
        M(
            'Flatten()\n    if dropout:\n        layers["dropout"] = Dropout(dropout)',
            'Flatten()\n    if dropout:\n        layers["dropout"] = Dropout(dropout / 2)',
            "test_recipe.py dropout",
        ),
        M(
            'GlobalAvgPool2D()\n    if dropout:\n        layers["dropout"] = Dropout(dropout)',
            'GlobalAvgPool2D()\n    if dropout:\n        layers["dropout"] = Dropout(dropout / 2)',
            "test_recipe.py dropout",
        ),
        M("max(found, key", "min(found, key", "test_network.py side_by_side"),
        M("need_dx = not trained.isdisjoint(sources)", "need_dx = True", "test_network.py backward_stops"),
        M("gradients[source] + share if", "share if", "test_network.py adds_up"),
        M("dx if len(sources) == 1 else dx[i]", "dx if len(sources) == 1 else dx[0]", "test_network.py adds_up"),
        M("if last[source] == name]", "if name]", "test_network.py"),
        M("initializer, padding=kernel // 2", "initializer, padding=0", "test_network.py cnn_stacks"),
        M("stride = 1 if single else 2", "stride = 1", "test_network.py side_by_side"),
        M("pool=AvgPool2D(3, 1, padding=1)", "pool=AvgPool2D(3, 1, padding=0)", "test_network.py side_by_side"),
        M('if placement == "before" else', 'if placement != "before" else', "test_network.py where_they_are_asked_for"),
        M("array.dtype, np.floating", "array.dtype, np.number", "test_network.py keep_every_bit"),
        M("averages, x, train=True)", "averages, x, train=False)", "test_network.py population_statistics"),
    ],
    "bnrepro/data.py": [
        M("used = examples - examples % batch_size", "used = batch_size", "test_data.py"),
        M("default_rng(seed)", "default_rng(0)", "test_data.py"),
        M("[4::5]", "[::5]", "test_datasets.py digits"),
        M("sums.sum(axis=(1, 2), keepdims=True)", "sums", "test_data.py standardised"),
        M("where=varies", "where=~varies", "test_data.py standardised"),
        M("np.lexsort((labels, rank))", "np.lexsort((rank, labels))", "test_data.py take_turns"),
        M("np.sort(in_turn[validation:until])", "np.sort(in_turn[:until])", "test_data.py take_turns"),
        M("images[..., ::-1], images)", "images[..., ::-1, :], images)", "test_data.py flipped"),
        M("rng.integers(0, 2 * n + 1, count)", "rng.integers(0, 2 * n, count)", "test_data.py cropped"),
        M('if order == "reshuffled"', 'if order == "fixed"', "test_data.py fixed_order"),
        M("values.clip(0) + epsilon * values.mean()", "values.clip(0)", "test_data.py whitened"),
        M("half = (maximum + 1) // 2", "half = maximum // 2", "test_datasets.py binarize"),
        M("else 1 / maximum", "else 1 / (maximum + 1)", "test_datasets.py idx_holds"),
    ],
    "bnrepro/datasets.py": [
        M("WHERE = Setting(identity=False)", "WHERE = Setting()", "test_config.py where_a_data_set"),
        M("!= expected:", "is None:", "test_datasets.py sha256"),
        M(
            '"published" if digests == PUBLISHED',
            '"published" if digests is not PUBLISHED',
            "test_datasets.py tell_sets",
        ),
        M("if len(images) != len(labels)", "if len(images) < len(labels)", "test_datasets.py bad_contents"),
        M('file, dotted, f"{file}.gz"', 'f"{file}.gz", file, dotted', "test_datasets.py raw_wins"),
        M('content, ">u4"', 'content, "<u4"', "test_datasets.py idx_holds"),
        M("part[:, 1:].reshape", "part[:, :-1].reshape", "test_datasets.py cifar10_holds"),
        M("if member.isreg() and", "if", "test_datasets.py bad_archives"),
        M("!= CIFAR10_SUMS[i]", "is None", "test_datasets.py other_images"),
    ],
    "bnrepro/diagnostics.py": [
        M("s.lr[:, np.newaxis] / norms**2", "s.lr[:, np.newaxis] / norms", "test_diagnostics.py rate_over_its_square"),
        M("np.where(counted, np.abs(moment), 0)", "np.where(counted, moment, 0)", "test_diagnostics.py moments"),
        M("an_epoch * math.ceil(ESTIMATES / an_epoch)", "ESTIMATES", "test_diagnostics.py gradient_estimates_have"),
        M("z - z.mean(axis=1, keepdims=True)]", "z]", "test_diagnostics.py amplification"),
        M("norms[:, 0] / norms[:, -1]", "norms[:, -1] / norms[:, 0]", "test_diagnostics.py weights_before"),
        M("np.where(counted, std_before, 1)", "np.where(counted, std, 1)", "test_diagnostics.py drift"),
        M("now[:, 1 : 2 * half : 2]", "now[:, half : 2 * half]", "test_diagnostics.py floor"),
        M("replace(own, grads=own.gradient(s.params)[1])", "own", "test_diagnostics.py mini_batch_is_definition_2_1"),
        M(
            "minibatches(len(s.data.train_labels), s.batch_size, s.step)",
            "minibatches(len(s.data.train_labels), s.batch_size, 0)",
            "test_diagnostics.py drawn_by_the_step",
        ),
        M("mixed[name] = stepped[name]", "mixed = dict(stepped)", "test_diagnostics.py definition_2_1"),
        M("eta = multiple * s.lr", "eta = multiple * np.ones_like(s.lr)", "test_diagnostics.py landscape"),
        M("np.asarray(q) / 100 * last", "np.asarray(q) / 100 * (last + 1)", "test_diagnostics.py percentiles"),
        M("found[:, -1], np.median(found, axis=1), found[:, 0]", "found.T[:3]", "test_diagnostics.py jacobian_is"),
    ],
    "bnrepro/measuring.py": [
        M(
            "copy.deepcopy(self.optimizer_state), self.lr",
            "self.optimizer_state, self.lr",
            "test_diagnostics.py changes_noth",
        ),
        M("if set(found) != {", "if not {", "test_measuring.py it_declares"),
        M("if np.shape(values) not in allowed[column.level]", "if values is None", "test_measuring.py it_declares"),
        M("if key in owners", "if key in ()", "test_measuring.py clash"),
        M("isascii() and column", "isascii() or column", "test_measuring.py clash"),
    ],
    "bnrepro/inference.py": [
        M("((m - 1) / m)", "(m / (m - 1))", "test_inference.py with_the_correction"),
        M("z.var(axis=1, ddof=1)", "z.var(axis=1)", "test_inference.py with_the_correction"),
        M(
            "s.params, state, x, train=False)\n            means",
            "s.params, s.state, x, train=False)\n            means",
            "test_inference.py layer_by_layer",
        ),
        M("s.evaluated[: whole or None]", "s.evaluated", "test_inference.py same_weights"),
        M("map(_bound(change, by, seed=1), s.batches())", "s.batches()", "test_inference.py corruptions_are"),
        M("found.var(axis=0, ddof=1)", "found.var(axis=1, ddof=1)", "test_inference.py companions"),
    ],
    "bnrepro/training.py": [
        M("if self.early_measurements:", "if self.early_measurements is True:", "test_training.py early"),
        M("if self.early_measurements is True else", "if self.early_measurements else", "test_training.py geometric"),
        M(
            "            step=step,\n        )\n        self.before",
            "            step=0,\n        )\n        self.before",
            "test_golden.py",
        ),
        M("len(chunk) * gradient + targets", "gradient + targets", "test_training.py predictions"),
        M("lr=group.lr * self.spec.lr_schedule(step)", "lr=group.lr", "test_training.py rate_in_force"),
        M(
            "drawn, self.spec.lr_schedule(step))",
            "drawn, self.spec.lr_schedule(0))",
            "test_training.py follows_its_schedule",
        ),
        M("healthy = loss <= DIVERGED_LOSS", "healthy = ~(loss > DIVERGED_LOSS)", "test_training.py rate_too_large"),
        M("last.train_loss <= DIVERGED_LOSS", "last.train_loss <= np.inf", "test_training.py by_the_last_update"),
        M("weight_seed, _ =", "_, weight_seed =", "test_golden.py other_command_lines"),
        M(
            "for seed in group.seeds] if len",
            "for seed in sorted(group.seeds)] if len",
            "test_training.py mini_batches_of_its_own",
        ),
        M("select_runs(self.optimizer_state, mask)", "self.optimizer_state", "test_training.py diverging_neighbours"),
        M("dtype) / len(chosen)", "dtype) / count", "test_training.py accuracy_is_measured"),
        M("self.x, train=True, taps", "self.x, train=False, taps", "test_training.py slow_recomputation"),
        M(
            "self.accuracy(group, self.spec.schedule.eval_examples)",
            "self.accuracy(group)",
            "test_training.py slow_recom",
        ),
        M("return taps if left.all() else", "return taps if left.any() else", "test_training.py all_diagnostics"),
        M("max(1, self.steps // self", "max(2, self.steps // self", "test_training.py measured_steps"),
    ],
    "bnrepro/recipe.py": [
        M('object.__setattr__(self, "placement", "before")', "pass", "test_config.py another_spelling"),
        M("mlp(self.hidden, classes", "mlp(self.hidden[::-1], classes", "test_recipe.py hidden_layers"),
        M("cnn(self.channels, self", "cnn(self.channels[::-1], self", "test_recipe.py stages"),
        M("inception(self.stem, self.modules", "inception(2 * self.stem, self.modules", "test_recipe.py stem"),
        M("norms, self.dropout, self", "norms, self.dropout / 2, self", "test_recipe.py dropout"),
        M("placement, self.bias", "placement, None", "test_recipe.py where_they_are_asked_for"),
        M("dtype=np.dtype(first.train.dtype)", 'dtype=np.dtype("float32")', "test_recipe.py dtype"),
        M("[run.lr for run in runs]", "[first.lr for run in runs]", "test_recipe.py its_own_rate"),
        M("[run.seed for run in runs]", "[first.seed for run in runs]", "test_recipe.py its_own_rate"),
        M("[run.model.value.build", "[first.model.value.build", "test_recipe.py its_own_rate"),
        M("norm(**self.norm_options)", "norm()", "test_recipe.py norm_has_its"),
        M("diagnostics=first.measured()", "diagnostics={}", "test_recipe.py those_named"),
        M("else Normal(self.std)", "else Normal(1.0)", "test_recipe.py weights_are_drawn"),
        M("outcomes[r].curves.append", "outcomes[i].curves.append", "test_recipe.py diverges"),
        M(
            "float(values[i]) for name, values in (always",
            "float(values[0]) for name, values in (always",
            "test_recipe.py",
        ),
        M(
            "float(values[i]) for name, values in layer",
            "float(values[0]) for name, values in layer",
            "test_recipe.py rows",
        ),
        M("values[i].tolist()", "values[0].tolist()", "test_recipe.py rows"),
        M("enumerate(measured.layers, start=1)", "enumerate(measured.layers)", "test_recipe.py rows"),
        M("float(event.test_accuracy[i])", "float(event.test_accuracy[0])", "test_recipe.py diverges"),
        M('"diverged", event.step', '"diverged", event.step + 1', "test_recipe.py diverges"),
        M('Setting(per_run=True, column="seed")', 'Setting(column="seed")', "test_config.py a_group_is"),
        M("Annotated[Init, Setting(per_run=True)]", "Annotated[Init, Setting()]", "test_config.py a_group_is"),
        M(
            'Annotated[str, Setting(names=True, column="norm")]',
            'Annotated[str, Setting(column="norm")]',
            "test_config.py",
        ),
        M("self.kernel % 2 == 1", "self.kernel > 0", "test_config.py models"),
    ],
    "bnrepro/settings.py": [
        M("if not declared.identity or", "if", "test_settings.py"),
        M("(declared.per_run and not per_run)", "(declared.per_run and per_run is None)", "test_settings.py lock_step"),
        M("(defaults or own != _default(f))", "(defaults or own is not None)", "test_settings.py at_its_default"),
        M("sort_keys=True", "sort_keys=False", "test_settings.py order_of_keys"),
        M("if declared.names:", "if declared.column:", "test_settings.py names"),
        M("isinstance(found, type) and self.base in found.__mro__", "isinstance(found, type)", "test_settings.py kind"),
        M("self.identity == other.identity", "self.name == other.name", "test_settings.py choice"),
    ],
    "bnrepro/config.py": [
        M("per_run) or value == f.default", 'per_run) or f.name == "train"', "test_config.py any_change"),
        M("digest(self._identity(per_run=False))", "digest(self._identity(per_run=True))", "test_config.py a_group_is"),
        M("self.diagnostics if", "() if", "test_config.py belongs_to_the_code"),
        M("sorted({*found[key]})", "list(found[key])", "test_config.py another_spelling"),
        M(
            "{name: getattr(checked, name) for name in declarations(norm)}",
            "dict(model.norm_options)",
            "test_config.py",
        ),
        M('taken=["code", *SETTING_COLUMNS]', "taken=[]", "test_config.py"),
        M("self.train.batch_size < least", "self.train.batch_size < 1", "test_config.py two_examples"),
        M("_merge(old.get(key), value)", "value", "test_config.py more_grids"),
        M("    _check_fields(options, cls, key)\n    return", "    return", "test_config.py"),
        M('_check_keys(settings, RUN_KEYS, "")', "None", "test_sweeping.py bad_grids"),
        M("value = value.pinned()", "pass", "test_commands.py other_files"),
        M("force=sweep.force", "force=False", "test_commands.py force"),
        M("(null or value is not None)", "True", "test_narrowing.py no_effect"),
        M('composed["sweep"] else ()', 'composed["sweep"] and sweep.more else ()', "test_config.py"),
    ],
    "bnrepro/provenance.py": [
        M("waiting += imported", "assert imported is not None", "test_provenance.py"),
        M("not is_text and not _is_for_types_only(node)", "not _is_for_types_only(node)", "test_provenance.py words"),
        M("not is_text and not _is_for", "not is_text or not _is_for", "test_provenance.py words"),
        M('{"annotation", "returns"', '{"returns"', "test_provenance.py words"),
        M("- node.level + is_package]", "- node.level]", "test_provenance.py import_path_counts"),
        M("elif _is_installed(top)", "elif not top", "test_provenance.py"),
        M(
            "for name in names for part in _with_parents(name)",
            "for name in () for part in _with_parents(name)",
            "test_provenance.py",
        ),
        M('"blas_threads": lib.get("num_threads")', '"blas_threads": None', "test_sweeping.py one_thread"),
    ],
    "bnrepro/store.py": [
        M(
            "[row.get(name) for name in names]",
            "[row.get(name) for name in sorted(names)]",
            "test_store.py what_is_added",
        ),
        M(
            "rows.fetchall(), columns=columns)",
            "rows.fetchall(), columns=[*columns[:-2], *columns[:-3:-1]])",
            "test_store.py",
        ),
        M("owner]).fetchone() is None", "owner]).fetchall() is not None", "test_store.py another_does_not_get"),
        M("or _has_ended(host, pid)", "", "test_store.py a_claim_ends"),
        M("before.get((name, seen), now)", "before.get((name, seen), -seen)", "test_store.py a_claim_ends"),
        M(
            "3: _add_what_came_with_4,",
            "2: _add_what_came_with_4,",
            "test_store.py of_a_later",
        ),
        M("UPDATE claims SET seen = ? WHERE", "UPDATE claims SET seen = ? + 1e9 WHERE", "test_store.py heartbeat"),
        M('and not (replace and result.status != "failed")', "and not replace", "test_store.py ended_well"),
        M('"UPDATE runs SET run_id = ? WHERE run = ?"', '"SELECT ?, ?"', "test_store.py schema_before"),
        M("v != defaults[k]}", "v == defaults[k]}", "test_store.py schema_before"),
        M(
            "if now != version:",
            "if now > version + 1:",
            "test_store.py many_at_once",
            "migrating once more what another process has migrated meanwhile changes nothing, it only takes time",
        ),
        M("max({ENDED}) FROM", "min({ENDED}) FROM", "test_store.py as_last_stored"),
        M("if tuple(key) in wanted", "if key[0] in dict(wanted)", "test_store.py other_code"),
        M("whole.sort_values(order, ignore_index=True)", "whole.reset_index(drop=True)", "test_store.py same_order"),
        M("synchronous = EXTRA", "synchronous = OFF", "test_store.py on_the_disk"),
        M("if left != len(chosen)", "if left > len(chosen)", "test_store.py"),
        M("in last and _key(run) not in known", "in last", "test_store.py other_code"),
        M(
            "leaves.get(key) for key, column in COLUMNS",
            "leaves.get(column) for key, column in COLUMNS",
            "test_store.py added",
        ),
        M('"seconds": self.seconds', '"seconds": 0.0', "test_store.py added"),
        M("            | self.provenance\n", "", "test_store.py where_a_run"),
        M("ifnull(finished, '') ||", "'' ||", "test_runs.py comes_too"),
        M("not _has_ended(host, pid) for", "False for", "test_runs.py meanwhile"),
        M('db.execute("VACUUM")', "pass", "test_runs.py meanwhile"),
        M("and (finished_here or not finished)", "and finished_here", "test_runs.py beats"),
        M("if finished and _differ(", "if not finished and _differ(", "test_runs.py to_the_bit"),
        M('"runs": ", ".join(OUTCOME)}', '"runs": "run_id"}', "test_runs.py to_the_bit"),
        M("for name in there.keys() - here", "for name in here - here", "test_runs.py comes_too"),
        M('db.execute("DELETE FROM main.runs WHERE run = ?", [here])', "pass", "test_runs.py beats"),
    ],
    "bnrepro/runs.py": [
        M("range(SHORTEST, longest)", "range(1, longest)", "test_runs.py tells_them_apart"),
        M("duplicated(keep=False)", "duplicated()", "test_runs.py tells_them_apart"),
        M("for key in kind if is_stale", "for key in kind[:1] if is_stale", "test_runs.py deleted_and_nothing_else"),
        M("run.code != code for run, code in found", "True for run, code in found", "test_runs.py nothing_else"),
        M("if run.code != code}\n", "}\n", "test_runs.py can_not_be_told"),
        M("| has if column in having else has", "& has if column in having else has", "test_runs.py are_chosen"),
        M("stored in (value, text", "stored in (None, text", "test_runs.py are_chosen"),
        M("return value is None\n    return isinst", "return False\n    return isinst", "test_runs.py are_chosen"),
        M('join="inner"', 'join="outer"', "test_runs.py a_single_bit"),
        M('runs["status"] == "failed"]', 'runs["status"] != "done"]', "test_runs.py deleted_and_nothing_else"),
        M('not in ("y", "yes")', 'in ("n", "no")', "test_runs.py is_asked"),
        M("if not yes:\n            _confirm", "if yes:\n            _confirm", "test_runs.py is_asked"),
        M("?mode=ro", "?mode=rw", "test_runs.py left_as_it_is"),
        M('for suffix in ("", "-journal")', 'for suffix in ("",)', "test_runs.py left_as_it_is"),
        M("if path.exists() and not yes", "if path.exists() and yes", "test_runs.py written_over"),
        M('["code"] * _several(runs["code"])', "[]", "test_runs.py two_codes"),
    ],
    "bnrepro/sweeping.py": [
        M("return lines[indented[-1] + 1]", "return lines[indented[0] + 1]", "test_sweeping.py headline"),
        M("if failed and not self.failed:", "if failed:", "test_sweeping.py told_of_at_once"),
        M("alike.setdefault(run.group_id, [])", 'alike.setdefault("", [])', "test_sweeping.py partition"),
        M("group_size or min(share", "min(share", "test_sweeping.py sizes_of_groups"),
        M("key=lambda run: run.seed", "key=lambda run: run.run_id", "test_sweeping.py partition"),
        M("LOCK_STEP_IMAGES // size", "LOCK_STEP_IMAGES", "test_sweeping.py stay_in_cache"),
        M("key=_seeming_length, reverse=True", "key=_seeming_length", "test_sweeping.py takes_longest"),
        M("part = (key, *[chosen[i] for i in of_key])", "part = (key,)", "test_sweeping.py first_key_slowest"),
        M("runs[run.run_id] = run", "runs[str(len(runs))] = run", "test_sweeping.py equal_runs"),
        M("/ len(runs), found or environment()", "/ len(runs), {}", "test_sweeping.py one_thread"),
        M("begin) / len(runs)", "begin) * len(runs)", "test_sweeping.py seconds_of_a_group"),
        M(
            "for run in runs for result in train_group([run], data)",
            "for run in runs[:1] for result in train_group([run], data)",
            "test_sweeping.py only_the_run",
        ),
        M(
            "(run.run_id, run.code) not in finished",
            "run.run_id not in dict(finished)",
            "test_commands.py other_code_are_named",
        ),
        M("missing = list(runs) if force else without", "missing = without", "test_sweeping.py force"),
        M(
            "for run in group if run.run_id not in ours]",
            "for run in group if not ours]",
            "test_sweeping.py waited_for",
        ),
        M("replace=self.force, note", "note", "test_sweeping.py force"),
        M("extendleft([group[half:], group[:half]])", "extendleft([group[:half]])", "test_sweeping.py to_blame"),
        M(
            "self.data, self.compute.group_size)",
            "self.data)",
            "test_sweeping.py smaller_groups",
        ),
        M("store.heartbeat(owner)", "store.heartbeat(uuid.uuid4().hex)", "test_sweeping.py kept_alive"),
        M("store.release(owner)", "store.finished()", "test_sweeping.py leaves_no_claims"),
        M("raise KeyboardInterrupt from left", "raise RuntimeError from left", "test_sweeping.py leaving_the"),
        M("self.progress.tick()", "pass", "test_sweeping.py bar_is_drawn"),
        M("self.ended += len(results)", "self.ended += 1", "test_sweeping.py plain_lines"),
        M("self._parts.pop(result.config.run_id, None)", "pass", "test_sweeping.py count_before"),
        M("done - self._bar.n", "self.ended - self._bar.n", "test_sweeping.py bar_moves"),
        M("/ done * (self.total - done)", "/ done * self.total", "test_sweeping.py count_before"),
        M("_check_fit(run, data[run.dataset])", "pass", "test_sweeping.py too_small"),
        M("if run.train.batch_size > examples", "if run.train.batch_size < 0", "test_sweeping.py batch_larger"),
        M("if len(found) > 1]", "if found]", "test_sweeping.py tell_runs_apart"),
        M(
            "new = [run for run in self.asked() if run.run_id not in self.known]",
            "new = []",
            "test_refining.py goes_on",
        ),
        M("self.found(-count)", "pass", "test_refining.py goes_on"),
    ],
    "bnrepro/refining.py": [
        M("step = max(ratio, ", "step = max(1.0, ", "test_refining.py beyond_the_grid"),
        M(
            "not 1 / widest <= value / end <= widest",
            "not 0 < value / end <= widest",
            "test_refining.py beyond_the_grid",
        ),
        M("ends[0] == ends[1] or high", "high", "test_refining.py beyond_the_grid"),
        M("or high / low <= ratio", "or high - low <= ratio", "test_refining.py beyond_the_grid"),
        M("min(MOST_ROUNDED, spacing**0.25)", "MOST_ROUNDED", "test_refining.py beyond_the_grid"),
        M("if not all(key in finals for key in keys):", "if not keys:", "test_refining.py goes_on"),
        M(
            "for i in range(0, len(runs), seeds)]",
            "for i in range(len(runs))]",
            "test_refining.py with_all_of_its_seeds",
        ),
        M("if len(part.grid) > 1]", "]", "test_refining.py cannot_be_refined"),
        M(
            "list(combine(base, [*one_cell.items(), (path, every)]) if every else ())",
            "pass",
            "test_refining.py cannot",
        ),
    ],
    "bnrepro/workers.py": [
        M("if run.code != expected:", "if not expected:", "test_workers.py other_code"),
        M(
            "task(runs, self._data[runs[0].dataset], *watch)",
            "task(runs, [*self._data.values()][0], *watch)",
            "test_workers.py own_data",
        ),
        M("self._files[runs[0].dataset], *watch", "[*self._files.values()][0], *watch", "test_workers.py own_data"),
        M("steps.unlink(missing_ok=True)", "steps", "test_workers.py no_longer"),
        M("if tell and not self._last[i].done()", "if tell", "test_workers.py no_longer"),
        M('mmap_mode="r"', "mmap_mode=None", "test_sweeping.py memory_mapped"),
        M('"OMP_NUM_THREADS": "1"', '"OMP_NUM_THREADS": "2"', "test_workers.py one_thread"),
        M('set_exception(WorkerDied(f"exit code', 'set_exception(InputError(f"exit code', "test_workers.py exit_code"),
        M(
            "effective_n_jobs(compute.n_jobs), folder",
            "effective_n_jobs(1), folder",
            "test_workers.py as_many_processes",
        ),
        M("os._exit(1)", "return", "test_faults.py killed_sweep_end"),
    ],
    "bnrepro/dry_run.py": [
        M('print(f"{len(missing)} runs', 'print(f"{len(runs)} runs', "test_commands.py dry_run"),
        M(
            "form_groups(missing, at_once, data, compute.group_size)",
            "form_groups(missing, at_once, data)",
            "test_dry_run.py",
        ),
        M("seconds / len(largest[kind])", "seconds", "test_dry_run.py"),
        M("for run in missing) / min(at_once", "for run in runs) / min(at_once", "test_dry_run.py"),
        M("        seconds |= stored\n", "", "test_dry_run.py"),
        M(
            "        check()\n        wait(begun)\n",
            "        wait(begun)\n",
            "test_commands.py refused_before_training",
        ),
    ],
    "bnrepro/verify.py": [
        M("unequal = (one != other) & either", "unequal = (one != one) & either", "test_verify.py one_bit"),
        M(
            'table["early difference"] <= TOLERANCE',
            'table["early difference"] <= np.inf',
            "test_verify.py other_hardware",
        ),
        M("return DIFFERS not in repeat(store.path", "return repeat(store.path", "test_verify.py one_bit"),
        M("for run, code in runs if run.code == code]", "for run, code in runs]", "test_verify.py other_code"),
        M("if run.run_id == run_id:", "if run:", "test_stale.py others_here"),
        M("if equal is None else equal.reindex", "if True else equal.reindex", "test_stale.py differs"),
        M("runs[i * len(runs) // count]", "runs[i]", "test_verify.py sample"),
        M("(there != now.reindex(there.index)).any(axis=1)", "(there == there).any(axis=1)", "test_verify.py one_bit"),
        M('["run_id", *OUTCOME]', '["run_id", *OUTCOME[:1]]', "test_verify.py one_bit"),
    ],
    "bnrepro/analysis.py": [
        M("column == REPLICATE or is_among", "is_among", "test_analysis.py exactly_one_cell"),
        M("by += [c for c in others", "by = [c for c in others", "test_analysis.py facets exactly_one_cell"),
        M("members[REPLICATE].duplicated()).any()", "members.duplicated()).any()", "test_analysis.py are_refused"),
        M('runs["status"] != "failed"', 'runs["status"] != ""', "test_analysis.py outcomes"),
        M("DIVERGED_ACCURACY = 0.0", "DIVERGED_ACCURACY = 0.1", "test_analysis.py outcomes"),
        M('(row >= 0) & (curves["step"] > 0).to_numpy()', "row >= 0", "test_analysis.py after_0"),
        M("np.roll(step, 1)) + 1", "np.roll(step, 1))", "test_analysis.py after_0"),
        M("step * SMOOTH", "step", "test_analysis.py nearby noise"),
        M("-logs.round(9), seeds", "-logs.round(9)", "test_analysis.py fastest_value"),
        M("grid[last] / grid[first] >= ratio", "grid[last] / grid[first] > ratio", "test_analysis.py unbroken"),
        M("means[means == means.max()].index.max()", "means.idxmax()", "test_analysis.py best_value"),
        M("x.std(ddof=1)", "x.std()", "test_analysis.py by_hand 95_percent"),
        M("(1 + COVERAGE) / 2", "COVERAGE", "test_analysis.py by_hand 95_percent"),
        M("return mean(of - to)", "return mean(to - of)", "test_analysis.py by_hand"),
        M("if plain_never and other_never", "if plain_never or other_never", "test_analysis.py makes_a_bound"),
        M("found._replace(low=math.nan, bound=-1)", "found._replace(bound=-1)", "test_analysis.py makes_a_bound"),
        M("int(open_above) - int(open_below)", "int(open_above)", "test_analysis.py read_off"),
        M("n * whole - (n - 1) * each", "each", "test_analysis.py jackknife"),
        M('"value": seeds.median()', '"value": seeds.mean()', "test_analysis.py spread"),
        M("True if low >= threshold", "True if found.value >= threshold", "test_analysis.py whole_interval"),
        M("if held and all(held)", "if any(held)", "test_analysis.py verdict_follows"),
    ],
    "bnrepro/claims.py": [
        M("if each in known)", ")", "test_claims.py order"),
        M('each["id"] == claim.id', "True", "test_claims.py not_run"),
        M("{held[True]} of", "{held[False]} of", "test_claims.py reference_data"),
        M("if begin and end", "if begin or end", "test_claims.py without_marks"),
    ],
    "bnrepro/experiment.py": [
        M(
            "if PREDICTIONS in self.needs and not all(",
            "if PREDICTIONS in self.needs and all(",
            "test_experiment.py predictions",
        ),
        M("if column not in (*measured, PREDICTIONS)", "if not measured", "test_experiments.py no_less_will_do"),
        M("for setting in settings):", "for setting in settings) and runs == []:", "test_experiment.py lack"),
        M("(*self.needs, *self.uses)", "(*self.needs,)", "test_experiment.py of_ones_own"),
        M("if not isinstance(experiment, Experiment)", "if experiment is None", "test_experiment.py refused"),
    ],
    "bnrepro/presenting.py": [
        M(
            "return sorted(run.run_id for run in expand(settings.run, *settings.grids)) +",
            "return [run.run_id for run in expand(settings.run, *settings.grids)] +",
            "test_presenting.py one_set_of_runs",
        ),
        M("if settings.refine.key else []", "if not settings.refine else []", "test_presenting.py each_variant"),
        M("if count == expected", "if count", "test_presenting.py says_so"),
        M("store.load(stored)", "store.load()", "test_presenting.py printed_and_written"),
        M("0 < each.n < most", "False", "test_presenting.py seeds_are_fewer"),
        M("experiment.analyse(part)", "experiment.analyse(results)", "test_presenting.py facet_by_facet"),
        M("if len(found) == 1", "if found", "test_presenting.py facet_by_facet"),
    ],
    "bnrepro/report.py": [
        M('.replace("<", "\\\\u003c")', "", "test_report.py end_no_script"),
        M("if one != other", "", "test_report.py differs"),
        M(r"\g<1>{prefix}-", r"\g<1>", "test_report.py their_own"),
        M('key=lambda name: name == "seed"', 'key=lambda name: name != "seed"', "test_report.py what_varies"),
    ],
    "bnrepro/reference.py": [
        M("astype(float).round(3)", "astype(float).round(2)", "test_reference.py three_decimals"),
        M('"units") else 5', '"units") else 2', "test_reference.py come_back"),
        M('4 if name in ("layers", "units") else', "", "test_reference.py and_units_four"),
        M("_transposed(text) if name in LONG else text).enc", "text).enc", "test_reference.py the_runs_alone"),
        M("*MEASURED[table], *columns, *more])", "*MEASURED[table], *more])", "test_reference.py by_its_name"),
        M("if name not in known()", "if not name", "test_api.py reference"),
        M('to_numpy("<f8") + 0.0', 'to_numpy("<f4") + 0.0', "test_stale.py every_bit"),
        M("sort_values(keys).groupby", "groupby", "test_stale.py nothing_else"),
        M("if value == value or", "if", "test_stale.py read_back"),
        M("first = i % len(cell_)", "first = 0", "test_stale.py other_cells_and_seeds"),
    ],
    "bnrepro/stale.py": [
        M("if lost or unverified:", "if unverified:", "test_stale.py others_here"),
        M("if missing := ", "if missing := set() and ", "test_stale.py has_grown"),
        M("} - {*zip(", "} or {*zip(", "test_stale.py until_they_are_verified"),
        M("== {EQUAL}:", "!= {DIFFERS}:", "test_stale.py no_verification"),
        M("pair not in equal for", "pair for", "test_stale.py until_they_are_verified"),
        M('if "digest" not in stored.runs', "if not name", "test_stale.py without_digests"),
    ],
    "bnrepro/figures.py": [
        M("decades < most", "True", "test_figures.py some_ticks"),
        M(
            'crosses(ax, [run["diverged_at"]] if diverged else [], style(norm))',
            "pass",
            "test_figures.py the_curve_of_a_run",
        ),
        M("figure.set_layout_engine(None)", 'figure.set_layout_engine("none")', "test_figures.py one_layout"),
        M("            if not done:\n", "            if False:\n", "test_figures.py same_bytes"),
        M("os.waitpid(child, 0)[1] == 0", "os.waitpid(child, 0)[1] is None", "test_figures.py same_bytes"),
        M("or threading.current_thread() is not threading.main_thread()", "", "test_figures.py another_thread"),
        M('"svg.hashsalt": "bnrepro",', "", "test_figures.py same_bytes"),
        M('{"Date": None, "Creator": None}', '{"Creator": None}', "test_figures.py same_bytes"),
        M("mpl.rcParams.update(ALWAYS)", "pass", "test_figures.py style_sheet"),
        M("mpl.rcdefaults()", "pass", "test_figures.py"),
        M("_wanted.update(width=width, note=note)", "_wanted.update(note=note)", "test_figures.py width"),
        M("(share > 0) & (share < 1)", "share < 1", "test_figures.py cross"),
        M("if SOME_DIVERGED in strokes", "if 0 in strokes", "test_figures.py cross"),
    ],
    "bnrepro/composition.py": [
        M(
            'or "name" in known:\n            return',
            "or known:\n            return",
            "test_explain.py bad_input_is_one_line",
        ),
        M("if 0 < len(near) <= MOST_NEAR", "if near", "test_explain.py bad_input_is_one_line"),
        M('(equals or override.startswith("+"))', "equals", "test_composition.py short_commands"),
        M("value == {} and (composed", "value is None and (composed", "test_composition.py mistake"),
        M("if superseded:", "if not overrides:", "test_narrowing.py can_have_no_effect"),
        M("in (GRID, MORE)", "in (GRID,)", "test_narrowing.py can_have_no_effect"),
        M("option=_is_option(override), parts", "parts", "test_narrowing.py varies_is"),
        M("for part in (each, *each.parts)", "for part in (each,)", "test_narrowing.py can_have_no_effect"),
        M("{*overrides}\n", "{*parsed}\n", "test_narrowing.py with_multirun"),
        M("if jobs > MOST_RUNS:", "if not jobs:", "test_composition.py too_many"),
        M(
            "GlobalHydra.instance().hydra, version.version_base = before",
            "del before",
            "test_composition.py another_appl",
        ),
        M('.startswith(f"{key}."))', ".startswith(key))", "test_composition.py names_what_was"),
    ],
    "bnrepro/narrowing.py": [
        M("after = list(given.values)", "after = found", "test_narrowing.py varies_is every_run"),
        M(
            "if any(_same(find(value, below), each) for each in given.values)",
            "if value",
            "test_narrowing.py every_run",
        ),
        M("(missing and whole)", "False", "test_narrowing.py no_effect"),
        M("elif ABSENT in given.values:", "elif False:", "test_narrowing.py no_effect"),
        M("if given.listed and found is ABSENT", "if found is None", "test_narrowing.py is_an_axis"),
        M('option["name"] not in names:', "names is None:", "test_narrowing.py varies_is"),
        M("isinstance(one, bool) == isinstance(other, bool) and ", "", "test_narrowing.py true_is_not_one"),
        M("if other or (typed_more", "if (typed_more", "test_narrowing.py no_effect"),
        M("changes += found", "changes = changes", "test_narrowing.py varies_is"),
    ],
    "bnrepro/commands.py": [
        M('if row["status"] == "failed":', 'if row["status"] == "lost":', "test_commands.py shows_its_traceback"),
        M("    if progress.failed:\n", "    if not progress:\n", "test_commands.py failed_run_does_not_keep"),
        M("if not verify(", "if None is verify(", "test_commands.py verified"),
        M("or settings.force or settings.redraw", "or settings.force", "test_commands.py whatever_it_is_told"),
        M("presenting.check(name, grid, settings.figures)", "pass", "test_commands.py refused_before_training"),
        M("if as_reference and missing", "if missing", "test_commands.py stored_of_a_sweep"),
        M("partial(draw, quiet=True)", "draw", "test_commands.py while_the_sweep"),
        M("with suppress(Exception):", "with suppress(KeyError):", "test_commands.py is_no_matter"),
    ],
    "bnrepro/explain.py": [
        M("if TRACEBACK or explanation is None", "if explanation is None", "test_explain.py true_processes"),
        M("{' '.join(explanation.split())}", "{explanation.lower()}", "test_explain.py one_line_with_key"),
        M("isinstance(error, OSError) and error.filename", "isinstance(error, KeyError)", "test_explain.py"),
    ],
    "bnrepro/help.py": [
        M("at.get(i) == at[place.line]", "i in at", "test_help.py a_comment_stands"),
        M("at.get(i) == place.column", "i in at", "test_help.py a_comment_stands"),
        M('" and ".join(bounds)', '" or ".join(bounds)', "test_help.py is_spelled"),
        M("validated_value(found.annotated, value, found.key) != now", "True", "test_help.py another_value"),
        M('(f".{name}", f"/{name}")', '(f".{name}",)', "test_help.py an_entry_tells"),
        M("and each.owner is thing", "and each.owner", "test_help.py an_entry_tells"),
        M("(str(self.choices.get(group)), *self", '("mlp", *self', "test_help.py of_the_option_that_is_chosen"),
    ],
    "bnrepro/interrupts.py": [
        M("sys.exit(128 + ", "sys.exit(1 + ", "test_interrupts.py"),
        M("signal.signal(each, signal.SIG_IGN)", "signal.getsignal(each)", "test_interrupts.py"),
        M("!= signal.SIG_IGN]", "is not None]", "test_interrupts.py"),
    ],
    "bnrepro/api.py": [
        M("return store, told if more else None", "return store, None", "test_api.py never_mixed"),
        M("if (run.run_id, run.code) in store.finished()", "if not run", "test_api.py trained_once"),
        M(
            "results = found.load(runs) if found else None",
            "results = found.load() if found else None",
            "test_api.py never_mixed",
        ),
        M(
            "force=settings.force, asked=asked, note",
            "force=True, asked=asked, note",
            "test_api.py a_sweep_trains",
        ),
    ],
    "bnrepro/places.py": [
        M("if len(found) > 1:", "if len(found) > 2:", "test_places.py refused"),
        M('locate_file(""))).resolve() != CHECKOUT', 'locate_file(""))).resolve()', "test_places.py"),
        M("_option_folders[:] = dict", "_option_folders[:0] = dict", "test_places.py last_command"),
    ],
    "bnrepro/startup.py": [
        M("sys.path.insert(0, here)", "sys.path.append(here)", "test_startup.py import_paths"),
        M('stream.reconfigure(errors="bnrepro.plain")', "pass", "test_startup.py no_character"),
        M("if self.failed is None:", "if False:", "test_startup.py stops_no_work"),
        M("isinstance(raw.failed, BrokenPipeError)", "raw.failed", "test_startup.py stops_no_work"),
        M("if own != CONF and own.is_dir()", "if own == CONF and own.is_dir()", "test_places.py own_options"),
    ],
    "bnrepro/__main__.py": [
        M('if choices[name] == "basic":', 'if choices[name] != "optuna":', "test_main.py would_choose"),
        M('"minimize" in (direction', '"neither" in (direction', "test_main.py would_choose"),
        M("if HydraConfig.get().mode == RunMode.RUN", "if HydraConfig.get().mode != RunMode.RUN", "test_main.py fails"),
        M("if settings.show:", "if settings.force:", "test_commands.py whatever_it_is_told by_their_name"),
        M("    if others:\n", "    if not given:\n", "test_explain.py one_line_with_key"),
        M('    refuse(overrides, ["runs"], "only with +runs")\n', "", "test_runs.py one_line"),
        M('{"runs", "results_dir"}, "has no', '{*AROUND}, "has no', "test_runs.py one_line"),
        M('    refuse(overrides, ["verify"], "only with +verify")\n', "", "test_explain.py one_line_with_key"),
        M("[*gather_lists(complete(words)), begun]", "[*complete(words), begun]", "test_main.py completed_after"),
    ],
    "bnrepro/__init__.py": [
        M("__path__.append(str(places.CHECKOUT))", "__path__[:]", "test_places.py wrong_layers"),
    ],
    "experiments/norms.py": [
        M("std * column * (std + column)", "std * column * (std - column)", "test_norms.py central_differences"),
        M("if name == self.trained}", "}", "test_norms.py trains_the_part"),
        M("slope * (x - mean)", "slope * x", "test_norms.py central_differences"),
        M("counter=[0, 0, 0, drawn]", "counter=[0, 0, 0, 0]", "test_norms.py new_at_every_step"),
        M("< self.batches", "<= self.batches", "test_norms.py frozen"),
        M("r * grads[", "grads[", "test_norms.py batch_renorm"),
        M("[self.begin, self.end], [0, 1]", "[0, self.end], [0, 1]", "test_norms.py limits_of_batch_renorm"),
        M("var * ((m - 1) / m)", "var", "test_norms.py limits_of_batch_renorm"),
        M("(*x.shape[:2], self.groups, -1)", "(*x.shape[:2], 1, -1)", "test_norms.py one_example"),
        M("- 2 * self.alpha", "- self.alpha", "test_norms.py central_differences"),
    ],
    "experiments/rules.py": [
        M("[*weights][:-1]", "[*weights]", "test_rules.py only_hidden"),
        M("-2 * step - 1", "-2 * step", "test_rules.py decay_at"),
    ],
    "experiments/scale_invariance.py": [
        M("hidden[len(hidden) // 2]", "hidden[0]", "test_weight_scale.py middle_hidden_layer"),
        M(
            "gradient_norm(changes) / gradient_norm(others)",
            "gradient_norm(changes)",
            "test_weight_scale.py middle_hidden",
        ),
    ],
    "experiments/wrong_layers.py": [
        M("var * ((m - 1) / m)", "var", "test_implementation_mistakes.py biased"),
        M(
            "1 - self.momentum)._average",
            "self.momentum)._average",
            "test_implementation_mistakes.py momentum_reversed",
        ),
        M("x.shape[1] // 4", "x.shape[1] // 8", "test_implementation_mistakes.py four_images"),
        M('{"var": self.momentum * state["var"]}', '{"var": var}', "test_implementation_mistakes.py frozen"),
        M('dy * params["gamma"] / np.sqrt', "dy / np.sqrt", "test_implementation_mistakes.py outside_gradient"),
    ],
}


def mutated(room: str, mutation: Mutation) -> str:
    """The source of the room with the mistake.

    Raises:
        LookupError: if the place of the mistake is not there, or is not the only one.
    """
    source = (ROOT / room).read_text("utf-8")
    if source.count(mutation.old) != 1:
        raise LookupError(f"{room}: {source.count(mutation.old)} times {mutation.old!r}")
    return source.replace(mutation.old, mutation.new)


def run(tests: Sequence[str], copy: Path) -> str | None:
    """Run tests of a copy; None if they pass or there are none, else the first that fails, or that it took long."""
    file, *words = tests
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-n0",
        "-x",
        "--tb=no",
        "-rfE",
        "-p",
        "no:cacheprovider",
        f"tests/{file}",
    ]
    command += ["-k", " or ".join(words)] if words else []
    with subprocess.Popen(
        command, cwd=copy, env=environment(copy), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            out, _ = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return f"not ended after {LIMIT} s"
    if process.returncode in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        return None
    return next((line for line in out.splitlines() if line.startswith(("FAILED", "ERROR"))), out.strip()[-200:])


def environment(copy: Path) -> dict[str, str]:
    """In which a copy comes before what is installed, in processes that tests start too."""
    return os.environ | {"PYTHONPATH": str(copy)}


def imported(copy: Path) -> Path:
    """The folder from which a process that a test starts elsewhere imports the package."""
    command = [sys.executable, "-c", "import bnrepro; print(bnrepro.__path__[0])"]
    found = subprocess.run(command, cwd=copy.parent, env=environment(copy), capture_output=True, text=True, check=True)
    return Path(found.stdout.strip())


def check(room: str, mutation: Mutation, number: int, copy: Path) -> str | None:
    """Run the tests of one mistake, in a copy that is right before and after; None if it survives."""
    path = copy / room
    path.write_text(mutated(room, mutation), "utf-8")
    os.utime(path, (number, number))  # by which Python tells what it has compiled already; sizes may be equal
    try:
        return run(mutation.tests.split(), copy)
    finally:
        shutil.copy2(ROOT / room, path)


def selections(chosen: Iterable[Mutation]) -> list[list[str]]:
    """The files of tests, each with all words by which its tests are chosen, or with none if all of them are."""
    found: dict[str, set[str]] = {}
    for mutation in chosen:
        file, *words = mutation.tests.split()
        found.setdefault(file, set()).update(words or [""])
    return [[file, *([] if "" in words else sorted(words))] for file, words in found.items()]


def copy_project(folder: Path) -> Path:
    """A copy of all that tests need."""
    for name in COPIED:
        target, source = folder / name, ROOT / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what becomes of each mistake."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-k", default="", metavar="WORD", help="only where the room or the line has this word")
    word = parser.parse_args(arguments).k
    chosen = [(room, m) for room, rows in ROOMS.items() for m in rows if word in f"{room} {m.old} {m.new}"]
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder, ThreadPoolExecutor(COPIES) as pool:
        copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for number in range(COPIES):
            copy = copy_project(Path(folder).resolve() / str(number))
            assert imported(copy) == copy / "bnrepro"
            copies.put(copy)

        def in_a_copy(task: Callable[[Path], str | None]) -> str | None:
            copy = copies.get()
            try:
                return task(copy)
            finally:
                copies.put(copy)

        right = [partial(run, tests) for tests in selections(m for _, m in chosen)]
        if red := [told for told in pool.map(in_a_copy, right) if told]:
            print("without any mistake:", *red, sep="\n")
            return 1
        print(f"without any mistake all are green, after {time.monotonic() - begin:.0f} s", flush=True)
        wrong = [partial(check, room, mutation, number) for number, (room, mutation) in enumerate(chosen, start=1)]
        survivors = []
        for (room, mutation), noticed in zip(chosen, pool.map(in_a_copy, wrong), strict=True):
            told = f"caught    {noticed}" if noticed else f"SURVIVED  {mutation.survives or 'unexplained'}"
            print(
                f"{room}: {mutation.old.strip()} -> {mutation.new.strip()}  [{mutation.tests}]\n    {told}", flush=True
            )
            survivors += [] if noticed else [mutation]
    unexplained = sum(not mutation.survives for mutation in survivors)
    print(
        f"{len(chosen)} mistakes in {len({room for room, _ in chosen})} rooms: {len(chosen) - len(survivors)} caught, "
        f"{len(survivors)} survived, {unexplained} of these unexplained; {time.monotonic() - begin:.0f} s"
    )
    return int(unexplained > 0 or len(survivors) > MOST_SURVIVORS * len(chosen))


if __name__ == "__main__":
    sys.exit(main())
