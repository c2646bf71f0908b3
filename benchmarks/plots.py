"""SVG plots of the results, for the docs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt

from .apps import CONTENDERS
from .measure import CONTESTS
from .report import label, medians

STYLE = {
    'axes.spines.right': False,
    'axes.spines.top': False,
    'figure.figsize': (8, 4),
    'font.size': 10,
    'svg.fonttype': 'none',
    # the same figures make the same file
    'svg.hashsalt': 'benchmarks',
}


def draw(results: dict[str, Any], directory: Path) -> None:
    """Draw what there are results of."""
    matplotlib.use('svg')
    for section, plot in PLOTS.items():
        data = results.get(section, {}).get('data')
        if not data:
            continue
        with plt.rc_context(STYLE):
            figure, axes = plt.subplots(layout='constrained')
            plot(data, axes)
            figure.savefig(
                directory / f'{section}.svg', metadata={'Date': None}
            )
            plt.close(figure)


def bars(axes: Any, values: dict[str, float], what: str) -> None:
    drawn = axes.barh(
        [label(name) for name in values],
        list(values.values()),
        color=[CONTENDERS[name].color for name in values],
    )
    axes.bar_label(drawn, fmt='{:,.0f}', padding=4)
    axes.invert_yaxis()
    axes.set_xlabel(what)


def lines(
    axes: Any, data: dict[str, dict[str, float]], across: str, up: str
) -> None:
    """One line for each contender."""
    for name, points in data.items():
        contender = CONTENDERS[name]
        axes.plot(
            [int(x) for x in points],
            list(points.values()),
            marker='o',
            markersize=4,
            color=contender.color,
            linestyle='--' if contender.is_floor else '-',
            label=contender.label,
        )
    counts(axes, next(iter(data.values())))
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.legend(frameon=False, fontsize=8)


def counts(axes: Any, numbers: Iterable[str]) -> None:
    """An axis of numbers, each about the double of the one before."""
    ticks = [int(number) for number in numbers]
    axes.set_xscale('log', base=2)
    axes.set_xticks(ticks, [f'{tick:,}' for tick in ticks])
    axes.minorticks_off()


def cpu(data: Any, axes: Any) -> None:
    bars(
        axes,
        {
            name: statistics.median(medians(of['read+write']))
            for name, of in data.items()
        },
        'CPU time of a read+write request, µs',
    )


def throughput(data: Any, axes: Any) -> None:
    bars(
        axes,
        {
            name: statistics.median(
                turn['per second'] for turn in of[max(of, key=int)]
            )
            for name, of in data.items()
        },
        'requests per second, 16 clients, store 2 ms away',
    )


def survival(data: Any, axes: Any) -> None:
    bars(
        axes,
        {
            name: of['5 ms']['survived']
            for name, of in data.items()
            if not CONTENDERS[name].is_floor
        },
        'of 400 parallel increments of one session, so many are kept',
    )


def contention(data: Any, axes: Any) -> None:
    """Those of no hold: the calls are all that takes time."""
    for contest, of in data['0'].items():
        who = CONTESTS[contest]
        contender = CONTENDERS[who.contender]
        axes.plot(
            [int(count) for count in of],
            [statistics.median(found['ms']) for found in of.values()],
            marker='o',
            markersize=4,
            color=contender.color,
            linestyle=':' if who.processes > 1 else '-',
            label=contest,
        )
    counts(axes, next(iter(data['0'].values())))
    axes.set_xlabel('requests of one session at once')
    axes.set_ylabel('ms until all are answered')
    axes.set_yscale('log')
    axes.yaxis.set_major_formatter('{x:g}')
    axes.legend(
        frameon=False,
        fontsize=8,
        loc='center left',
        bbox_to_anchor=(1, 0.5),
    )


def size(data: Any, axes: Any) -> None:
    lines(
        axes,
        {
            name: {kb: units['writes'] for kb, units in of.items()}
            for name, of in data.items()
            if CONTENDERS[name].store == 'dynamodb'
        },
        'KB of JSON in the session',
        'write units of a read+write request',
    )
    axes.set_yscale('log', base=2)
    axes.yaxis.set_major_formatter('{x:g}')


def threads(data: Any, axes: Any) -> None:
    lines(
        axes,
        {
            name: {
                count: statistics.median(rates) for count, rates in of.items()
            }
            for name, of in data.items()
            if CONTENDERS[name].store
        },
        'threads and clients',
        'requests per second',
    )


def soak(data: Any, axes: Any) -> None:
    for name, readings in data.items():
        counts, kilobytes = zip(*readings, strict=True)
        axes.plot(
            counts,
            [kb / 1e3 for kb in kilobytes],
            color=CONTENDERS[name].color,
            label=label(name),
        )
    axes.set_ylim(bottom=0)
    axes.set_xlabel('requests')
    axes.set_ylabel('resident memory, MB')
    axes.legend(frameon=False)


PLOTS: dict[str, Callable[[Any, Any], None]] = {
    'cpu': cpu,
    'throughput': throughput,
    'threads': threads,
    'survival': survival,
    'contention': contention,
    'size': size,
    'soak': soak,
}
