"""The command of the benchmarks works, and a request is as lean as it says."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
from pyramid.events import NewRequest
from pyramid.request import Request

from benchmarks import report
from tests.apps.wsgi_app import main
from tests.support.servers import ROOT

IMPORT = """
import sys, pyramid_dynamodb_session
assert not {'boto3', 'botocore'} & set(sys.modules)
"""


@pytest.fixture
def benchmarks(endpoint: str, tmp_path: Path) -> dict[str, Any]:
    """What a quick run of the command has found and printed."""
    results = tmp_path / 'results.json'
    names = 'floor-boto3,direct,cookie'
    done = subprocess.run(
        [
            *(sys.executable, '-W', 'ignore', '-m', 'benchmarks'),
            *('cpu', 'calls', '--quick', '--batch', '2', '--only', names),
            *('--endpoint', endpoint, '--results', str(results)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return {'printed': done.stdout, **json.loads(results.read_text())}


def test_benchmarks_say_what_a_request_costs(
    benchmarks: dict[str, Any],
) -> None:
    calls = benchmarks['calls']['data']
    for name in ('floor-boto3', 'direct'):
        assert [
            calls[name][request]['calls']
            for request in ('none', 'read', 'read+write')
        ] == [0, 1, 2]
    assert calls['cookie']['read+write']['calls'] == 0
    assert 'CPU time of a request' in benchmarks['printed']


@pytest.fixture
def published() -> report.Results:
    """The results that the documentation is made of."""
    return report.of_contenders(
        json.loads(report.results_in(ROOT / 'docs').read_text())
    )


def test_the_page_is_the_one_that_the_results_make(
    published: report.Results,
) -> None:
    page = (ROOT / 'docs' / 'benchmarks.rst').read_text()
    assert page == report.page(published)


def test_the_comparison_has_the_figures_of_the_results(
    published: report.Results,
) -> None:
    text = (ROOT / 'docs' / 'why.rst').read_text()
    assert text == report.comparison(text, published)


def test_a_request_leaves_nothing_to_the_garbage_collector(
    settings: dict[str, str],
) -> None:
    app = main(None, **settings)
    requests: list[Any] = []
    app.registry.registerHandler(
        lambda event: requests.append(weakref.ref(event.request)),
        [NewRequest],
    )
    gc.disable()
    try:
        for path in ('/count', '/read', '/none'):
            Request.blank(path).get_response(app)
    finally:
        gc.enable()
    assert [request() for request in requests] == [None] * 3


def test_importing_the_package_imports_no_client() -> None:
    subprocess.run([sys.executable, '-c', IMPORT], check=True, cwd=ROOT)
