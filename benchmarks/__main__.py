"""The command: measure, print tables, write the page of the docs."""

from __future__ import annotations

import argparse
import contextlib
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from . import engines, report
from .apps import CONTENDERS, Options
from .measure import QUICK, SECTIONS, Bench, Effort
from .worker import ROOT

#: How the fields of an effort are written as options, by their types.
PARSERS: dict[str, Callable[[str], Any]] = {
    'int': int,
    'float': float,
    'tuple[int, ...]': lambda text: tuple(map(int, text.split(','))),
}


def main() -> None:
    arguments = parsed()
    results = earlier_results(arguments.results)
    if not arguments.report:
        with contextlib.ExitStack() as stack:
            bench = set_up(arguments, stack)
            for section in arguments.sections or SECTIONS:
                results[section] = {
                    'date': time.strftime('%Y-%m-%d'),
                    'machine': engines.machine(),
                    'data': SECTIONS[section](bench),
                }
                show(report.tables({section: results[section]}))
                keep(results, arguments.results)
    show(report.bounds(results))
    if arguments.docs is not None:
        write_page(results, arguments.docs)


def write_page(results: report.Results, docs: Path) -> None:
    """Write the page of the docs, its plots, and the figures elsewhere."""
    # matplotlib is for those who want pictures
    from .plots import draw

    directory = report.results_in(docs).parent
    directory.mkdir(parents=True, exist_ok=True)
    draw(results, directory)
    (docs / 'benchmarks.rst').write_text(report.page(results))
    why = docs / 'why.rst'
    why.write_text(report.comparison(why.read_text(), results))


def contenders(text: str) -> tuple[str, ...]:
    """The names in the order of the tables."""
    given = text.split(',')
    if unknown := set(given) - CONTENDERS.keys():
        raise argparse.ArgumentTypeError(f'unknown: {", ".join(unknown)}')
    return tuple(name for name in CONTENDERS if name in given)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser('python -m benchmarks')
    parser.add_argument(
        'sections',
        nargs='*',
        choices=[[], *SECTIONS],
        metavar='SECTION',
        help=f'only these of: {", ".join(SECTIONS)}',
    )
    parser.add_argument(
        '--only',
        type=contenders,
        default=tuple(CONTENDERS),
        metavar='NAMES',
        help=f'only these of: {",".join(CONTENDERS)}',
    )
    parser.add_argument(
        '--endpoint', metavar='URL', help='a DynamoDB that is running'
    )
    parser.add_argument(
        '--quick', action='store_true', help='tiny counts: does it work?'
    )
    parser.add_argument(
        '--results',
        type=Path,
        metavar='FILE',
        help='keep the results there, beside what an earlier run has left',
    )
    parser.add_argument(
        '--docs',
        type=Path,
        metavar='DIRECTORY',
        nargs='?',
        const=ROOT / 'docs',
        help='write the page and its plots, and keep the results there',
    )
    parser.add_argument(
        '--report',
        action='store_true',
        help='measure nothing: show and write what an earlier run has left',
    )
    for field in fields(Effort):
        parser.add_argument(
            f'--{field.name}',
            type=PARSERS[str(field.type)],
            metavar='N,N' if 'tuple' in str(field.type) else 'N',
        )
    arguments = parser.parse_args()
    if arguments.docs is not None and arguments.results is None:
        arguments.results = report.results_in(arguments.docs)
    return arguments


def earlier_results(path: Path | None) -> dict[str, Any]:
    if path is None or not path.exists():
        return {}
    return report.of_contenders(json.loads(path.read_text()))


def keep(results: dict[str, Any], path: Path | None) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'{json.dumps(results, indent=1)}\n')


def set_up(arguments: argparse.Namespace, stack: Any) -> Bench:
    """Start what is needed, and have it ended with the `stack`."""
    stores = {CONTENDERS[name].store for name in arguments.only}
    given = {
        field.name: getattr(arguments, field.name)
        for field in fields(Effort)
        if getattr(arguments, field.name, None) is not None
    }
    earlier = ''
    if any(CONTENDERS[name].is_earlier for name in arguments.only):
        earlier = stack.enter_context(engines.earlier_version())
    effort = QUICK if arguments.quick else Effort()
    return Bench(
        names=arguments.only,
        effort=type(effort)(**{**vars(effort), **given}),
        options=Options(
            endpoint=arguments.endpoint
            or stack.enter_context(engines.dynoxide()),
            redis_port=stack.enter_context(engines.redis())
            if 'redis' in stores
            else 0,
            prefix=f'bench-{uuid.uuid4().hex[:8]}',
            earlier=earlier,
        ),
    )


def show(tables: Any) -> None:
    for table in tables:
        print(table.text(), flush=True)


if __name__ == '__main__':
    main()
