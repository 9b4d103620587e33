"""Figures of one experiment: confusion matrix, reliability, learning curves, fusion weights."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from ser.errors import UserError
from ser.files import atomic_write
from ser.scoring.text import mark

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

History = Sequence[Mapping[str, Any]]  # one fold's history.json: epoch, train, valid

DPI = 200
# Okabe and Ito's blue and vermilion stay apart for colour-blind readers, and in grey.
COLOURS = {"train": "#0072B2", "valid": "#D55E00"}
LINES = {"train": "-", "valid": "--"}
PANELS = (("loss_er", "emotion loss", 1), ("WA", "WA (%)", 100), ("UA", "UA (%)", 100))
STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
}


def draw_figures(exp_dir: Path, scores: Mapping[str, Any]) -> list[Path]:
    """Draw what ``exp_dir`` has material for into ``exp_dir/figures``.

    The confusion matrix and the reliability plot come from ``scores``; learning curves and fusion
    weights from the history.json of the scored folds, where stage 4 left one. A figure without
    material is not drawn, and an older one is removed.

    Returns:
        The PNG files written.
    """
    histories = read_histories(exp_dir, scores["folds"]["scored"])
    directory = exp_dir / "figures"
    directory.mkdir(exist_ok=True)
    figures = {
        "confusion_matrix": confusion_figure(scores),
        "reliability": reliability_figure(scores),
        "learning_curves": learning_figure(histories, scores),
        "layer_weights": layer_figure(histories, scores, has_low_level(exp_dir, histories)),
    }
    written = []
    for name, figure in figures.items():
        path = directory / f"{name}.png"
        if figure is None:
            path.unlink(missing_ok=True)
            continue
        with atomic_write(path, "wb") as stream:
            # Without the version of matplotlib, equal scores give equal files.
            figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
        written.append(path)
    return written


def read_histories(exp_dir: Path, folds: Sequence[str]) -> dict[str, History]:
    """history.json of every fold that has one; UserError names one that is not readable."""
    histories = {}
    for fold in folds:
        path = exp_dir / fold / "history.json"
        if not path.is_file():
            continue
        try:
            history = json.loads(path.read_text(encoding="utf-8"))
            histories[fold] = sorted(history, key=lambda entry: int(entry["epoch"]))
        except (ValueError, KeyError, TypeError) as err:
            raise UserError(
                f"{path}: not a list of epochs ({err}); remove it to draw without this fold, "
                f"or train the fold again: ./run.sh --stage 4 --folds {fold}"
            ) from None
    return {fold: history for fold, history in histories.items() if history}


def confusion_figure(scores: Mapping[str, Any]) -> Figure:
    """Recall in percent and counts, all scored folds pooled; the shade is the row's share."""
    labels = scores["labels"]
    counts = np.array(scores["confusion"]["counts"])  # (C, C)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 1.6 + 0.95 * len(labels)
    figure, axes = new_figure(1, (side + 1.0, side))
    ax = axes[0]
    image = ax.imshow(100 * share, cmap="Blues", vmin=0, vmax=100)
    for (row, column), n in np.ndenumerate(counts):
        ax.text(
            column,
            row,
            f"{100 * share[row, column]:.1f}%\n{n}",
            ha="center",
            va="center",
            color="white" if share[row, column] > 0.55 else "black",
            fontsize=9,
        )
    names = [f"{label}\n(n = {n})" for label, n in zip(labels, counts.sum(axis=1), strict=True)]
    ax.set_xticks(range(len(labels)), labels, rotation=0 if len(labels) <= 8 else 30)
    ax.set_yticks(range(len(labels)), names)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("recognised as")
    ax.set_ylabel("reference")
    bar = figure.colorbar(image, ax=ax, shrink=0.8, ticks=range(0, 101, 20))
    bar.set_label("share of the reference class (%)")
    bar.outline.set_visible(False)
    ax.set_title(_title(scores), loc="left")
    return figure


def reliability_figure(scores: Mapping[str, Any]) -> Figure:
    """Accuracy of the decisions in each bin of confidence, above how many they are.

    Bars below the diagonal are decisions that were less often right than they were sure.
    """
    found = scores["calibration"]
    bins = [b for b in found["bins"] if b["n"]]
    figure, axes = new_figure(1, (4.4, 5.0), rows=2, height_ratios=[3, 1], sharex=True)
    width = 100 / len(found["bins"])
    left = [100 * b["low"] for b in bins]
    axes[0].bar(
        left,
        [100 * b["accuracy"] for b in bins],
        width,
        align="edge",
        color=COLOURS["train"],
        edgecolor="white",
        label="accuracy in the bin",
    )
    sure = [100 * b["confidence"] for b in bins]
    axes[0].plot(sure, sure, "o", color=COLOURS["valid"], markersize=5, label="mean confidence")
    axes[0].plot([0, 100], [0, 100], color="black", linewidth=0.8, linestyle=":")
    axes[0].set_ylabel("accuracy (%)")
    axes[0].set_xlim(0, 100)
    axes[0].set_ylim(0, 100)
    axes[0].legend(loc="upper left", frameon=False, fontsize=9)
    axes[0].set_title(_title(scores), loc="left", fontsize=9)
    axes[1].bar(left, [b["n"] for b in bins], width, align="edge", color="0.6", edgecolor="white")
    axes[1].set_ylabel("decisions")
    axes[1].set_xlabel(
        f"confidence (%), {len(found['bins'])} bins; calibration error {100 * found['ece']:.1f}%"
    )
    return figure


def learning_figure(histories: Mapping[str, History], scores: Mapping[str, Any]) -> Figure | None:
    """Emotion loss, WA and UA over epochs: the mean over folds, and every fold as a thin line."""
    panels = [p for p in PANELS if _curves(histories, "train", p[0], 1)]
    if not panels:
        return None
    figure, axes = new_figure(len(panels), (3.6 * len(panels), 3.2))
    for ax, (key, name, scale) in zip(axes, panels, strict=True):
        for split in ("train", "valid"):
            _draw_curves(ax, _curves(histories, split, key, scale), split)
        ax.set_xlabel("epoch")
        ax.set_ylabel(name)
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.grid(alpha=0.3, linewidth=0.5)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    figure.suptitle(_title(scores), fontsize=11)
    return figure


def layer_figure(
    histories: Mapping[str, History], scores: Mapping[str, Any], low_level: bool = True
) -> Figure | None:
    """Fusion weights after the last epoch (eq. 4): mean and sd over folds.

    Drawn as distances from the equal shares that training starts with: small learning rates move
    them little, and bars from zero would hide it.

    Args:
        histories: by fold.
        scores: scores.json, for the title.
        low_level: whether weight 0 is a_0, that of the low-level features; layer 1's if not.
    """
    weights = [w for history in histories.values() if (w := final_layer_weights(history))]
    if not weights or len({len(w) for w in weights}) > 1:
        return None
    table = np.array(weights)  # (folds, layers + 1)
    count, mean = table.shape[1], table.mean(axis=0)
    figure, axes = new_figure(1, (max(5.5, 0.45 * count + 1.5), 3.4))
    ax = axes[0]
    places = np.arange(count)
    start = ax.axhline(1 / count, color="black", linewidth=0.8, linestyle=":")
    ax.vlines(places, 1 / count, mean, color=COLOURS["train"], linewidth=2, alpha=0.5)
    spread = table.std(axis=0, ddof=1) if len(table) > 1 else None
    points = ax.errorbar(
        places, mean, yerr=spread, fmt="o", color=COLOURS["train"], capsize=3, markersize=6
    )
    ax.margins(y=0.15)
    low, high = ax.get_ylim()
    # At least 2 % to both sides: weights that hardly moved should look it.
    ax.set_ylim(min(low, 0.98 / count), max(high, 1.02 / count))
    folds = f"mean and sd of {len(table)} folds" if spread is not None else "one fold"
    figure.legend(
        [points, start],
        [f"after training, {folds}", f"before training, 1/{count}"],
        loc="outside lower center",
        ncols=2,
        frameon=False,
    )
    names = ["low-\nlevel", *range(1, count)] if low_level else range(1, count + 1)
    ax.set_xticks(places, [str(name) for name in names])
    ax.set_xlabel("encoder layer")
    ax.set_ylabel("fusion weight")
    ax.grid(axis="y", alpha=0.3, linewidth=0.5)
    ax.set_title(_title(scores), loc="left")
    return figure


def final_layer_weights(history: History) -> list[float]:
    """layer_weight_0, layer_weight_1 ... of the last epoch; empty without a fusion."""
    last = history[-1]
    values = {**last.get("valid", {}), **last.get("train", {})}
    weights = []
    while (key := f"layer_weight_{len(weights)}") in values:
        weights.append(float(values[key]))
    return weights


def has_low_level(exp_dir: Path, folds: Iterable[str]) -> bool:
    """Whether the frontend fuses low-level features, from the first fold's config.yaml."""
    path = exp_dir / next(iter(folds), "") / "config.yaml"
    if not path.is_file():
        return True
    config = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    return bool((config.get("frontend_conf") or {}).get("low_level", True))


def _curves(
    histories: Mapping[str, History], split: str, key: str, scale: float
) -> list[dict[int, float]]:
    """Each fold's epoch -> value, for the folds that have any."""
    curves = [
        {
            int(entry["epoch"]): scale * float(entry[split][key])
            for entry in history
            if key in (entry.get(split) or {})
        }
        for history in histories.values()
    ]
    return [curve for curve in curves if curve]


def _draw_curves(ax: Axes, curves: list[dict[int, float]], split: str) -> None:
    if not curves:
        return
    style = {"color": COLOURS[split], "linestyle": LINES[split]}
    for curve in curves:
        ax.plot(list(curve), list(curve.values()), alpha=0.3, linewidth=0.7, **style)
    epochs = sorted(set().union(*curves))
    # A fold that stopped early leaves the mean to the others from there on.
    means = [np.mean([curve[e] for curve in curves if e in curve]) for e in epochs]
    marker = "o" if len(epochs) <= 15 else None
    name = f"{split}, mean of {len(curves)} folds (thin: each fold)" if len(curves) > 1 else split
    ax.plot(epochs, means, linewidth=2, marker=marker, markersize=3.5, label=name, **style)


def _title(scores: Mapping[str, Any]) -> str:
    folds = scores["folds"]
    count = f"{len(folds['expected'])} folds"
    if folds["missing"]:
        count = f"{len(folds['scored'])} of {count}, partial"
    elif scores["partial"]:
        count += ", partial corpus"
    kind = ", ".join(filter(None, (scores["protocol"], mark(scores), count)))
    return f"{scores['system']} on {scores['corpus']} ({kind})"


def new_figure(
    columns: int, size: tuple[float, float], rows: int = 1, **layout: Any
) -> tuple[Figure, list[Axes]]:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size)
        FigureCanvasAgg(figure)  # no display needed, and nothing global kept
        axes = figure.subplots(rows, columns, squeeze=False, **layout)
    return figure, list(axes.flat)
