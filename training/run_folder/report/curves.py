"""The charts of metrics, stage by stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .chart import Chart, Series, draw
from .run_files import Record, number

TROUBLE = {
    "kl": (
        ("kl", "approx_kl"),
        "nats per token; kl: to the reference policy, approx_kl: to the one that played",
    ),
    "clip_fraction": (("clip_fraction",), "share of tokens whose gradient was clipped"),
    "entropy": (("entropy",), "nats per token; near 0 the policy stops exploring"),
    "grad_norm": (("grad_norm",), "before clipping"),
    "updates/skipped": (
        ("updates/skipped",),
        "minibatches without any gradient: no step was taken",
    ),
    "zero_variance_groups": (("zero_variance_groups",), "share of groups that teach nothing"),
    "engine_gap": (
        ("engine_gap",),
        "|log-probability of engine - trainer|, nats: mean and largest",
    ),
    "advantage/std": (("advantage/std",), "spread of the advantages over turns or tokens"),
    "lost episodes": (("lost/",), "failures, by reason"),
}
"""Metrics that show trouble: title -> how their names begin, and what they say."""
MEASURED = ("eval", "test")
"""Kinds of records that hold a success rate with its interval."""
KNOWN = {
    "stage",
    "step",
    "kind",
    "split",
    "success",
    "low",
    "high",
    "n",
    "loss",
    "valid_loss",
    "return",
}


@dataclass(slots=True)
class Section:
    """Charts under one heading; `folded` ones open on demand."""

    title: str
    charts: list[Chart]
    folded: bool = False


def line(records: Sequence[Record], key: str, name: str | None = None) -> Series:
    """Collect one metric over steps; missing and non-finite values leave gaps."""
    points = [(float(r["step"]), y) for r in records if (y := number(r.get(key))) is not None]
    return Series(name or key.partition("/")[2] or key, points)


def success_series(records: Sequence[Record]) -> list[Series]:
    """Collect success in training, and of each evaluated split with its interval."""
    series = [line([r for r in records if r.get("kind") == "train"], "success", "train, as played")]
    for split in sorted({str(r.get("split", "")) for r in records if r.get("kind") in MEASURED}):
        rows = [
            r for r in records if r.get("kind") in MEASURED and str(r.get("split", "")) == split
        ]
        one = line(rows, "success", split or "evaluation")
        for row in rows:
            low, high = number(row.get("low")), number(row.get("high"))
            if low is not None and high is not None and number(row.get("success")) is not None:
                one.band.append((float(row["step"]), low, high))
        series.append(one)
    return series


def sections(records: Sequence[Record]) -> list[Section]:
    """Draw all charts of a stage."""
    train = [r for r in records if r.get("kind") not in MEASURED]
    keys = sorted({key for r in train for key, value in r.items() if number(value) is not None})

    def start(prefix: str) -> list[str]:
        return [key for key in keys if key.startswith(prefix)]

    learning = [
        draw(
            "success rate",
            success_series(records),
            note="bands: 95 % Wilson intervals",
            bounds=(0.0, 1.0),
        ),
        draw("return", [line(train, "return")], note="weighted sum of the rewards, per episode"),
        draw(
            "loss", [line(records, "loss", "training"), line(records, "valid_loss", "validation")]
        ),
    ]
    rewards = [
        draw(key.partition("/")[2], [line(train, key)], note="mean per episode")
        for key in start("reward/")
    ]
    watched = {
        title: [k for begin in begins for k in start(begin)]
        for title, (begins, _) in TROUBLE.items()
    }
    trouble = [
        draw(t, [line(train, key, key) for key in watched[t]], note=note)
        for t, (_, note) in TROUBLE.items()
    ]
    seconds = [key for key in start("seconds/") if not key.endswith("per_second")]
    time = [draw("seconds per step", [line(train, key) for key in seconds])]
    used = KNOWN.union(start("reward/"), seconds, *watched.values())
    rest = [draw(key, [line(train, key, key)]) for key in keys if key not in used]
    found = [
        Section("Learning", [chart for chart in learning if chart]),
        Section("Rewards", [chart for chart in rewards if chart]),
        Section("Signs of trouble", [chart for chart in trouble if chart]),
        Section("Time", [chart for chart in time if chart]),
        Section(
            "Everything else that was recorded", [chart for chart in rest if chart], folded=True
        ),
    ]
    return [section for section in found if section.charts]
