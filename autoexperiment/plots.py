"""Pictures, drawn without any global state of matplotlib."""

from __future__ import annotations

from pathlib import Path

from autoexperiment.files import write_atomic
from autoexperiment.summary import NOISE_FACTOR, Line, Summary
from autoexperiment.vocabulary import Goal

_COLOUR = {"keep": "#1a7f37", "discard": "#8c959f", "crash": "#cf222e", "interrupted": "#9a6700"}


def save_progress(summary: Summary, path: Path) -> bool:
    """Draw the metric by experiment, best so far, and the baseline's noise band; False without matplotlib."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        return False
    import io

    figure = Figure(figsize=(9, 4.8), layout="constrained")
    axes = figure.add_subplot()
    _draw_band(axes, summary)
    _draw_points(axes, summary)
    _draw_failures(axes, summary)
    _draw_best(axes, summary)
    axes.set_xlabel("experiment")
    axes.set_ylabel(f"{summary.metric} ({'lower' if summary.goal is Goal.MINIMIZE else 'higher'} is better)")
    axes.set_title(f"{summary.tag}: {len(summary.judged)} judged, {summary.counts.get('keep', 0)} kept")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", fontsize=8)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    write_atomic(path, picture.getvalue())
    return True


def _measured(summary: Summary) -> list[Line]:
    return [line for line in summary.lines if line.value is not None]


def _draw_band(axes, summary: Summary) -> None:  # type: ignore[no-untyped-def]
    baseline = summary.baseline
    if baseline is None or baseline.value is None:
        return
    axes.axhline(baseline.value, color="#57606a", lw=0.8, ls="--", label=f"baseline {baseline.value:.4f}")
    if summary.noise:
        reach = NOISE_FACTOR * summary.noise
        axes.axhspan(
            baseline.value - reach, baseline.value + reach, color="#57606a", alpha=0.12, lw=0,
            label=f"baseline ± {NOISE_FACTOR:g} sd of {baseline.runs} runs",
        )  # fmt: skip


def _draw_points(axes, summary: Summary) -> None:  # type: ignore[no-untyped-def]
    for status in ("keep", "discard"):
        lines = [line for line in _measured(summary) if line.status == status]
        if lines:
            axes.scatter(
                [line.number for line in lines], [line.value for line in lines],
                color=_COLOUR[status], s=36, zorder=3, label=status,
            )  # fmt: skip


def _draw_failures(axes, summary: Summary) -> None:  # type: ignore[no-untyped-def]
    """Experiments without a number stand as crosses on the lower edge: they have no height of their own."""
    for status in _COLOUR:
        lines = [line for line in summary.lines if line.value is None and line.status == status]
        if lines:
            axes.scatter(
                [line.number for line in lines], [0.02] * len(lines), transform=axes.get_xaxis_transform(),
                marker="x", color=_COLOUR[status], s=36, zorder=3, label=f"{status} (no number)",
            )  # fmt: skip


def _draw_best(axes, summary: Summary) -> None:  # type: ignore[no-untyped-def]
    kept = [line for line in _measured(summary) if line.status == "keep"]
    if kept:
        xs = [line.number for line in kept] + [summary.lines[-1].number]
        ys = [line.value for line in kept] + [kept[-1].value]
        axes.step(xs, ys, where="post", color=_COLOUR["keep"], lw=1.4, label="incumbent")
