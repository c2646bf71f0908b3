"""What setup.cfg promises of the packages that this one needs."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
#: Extras that the tests do not run with.
UNTESTED = {'docs', 'lint', 'servers'}


def requirements() -> list[Requirement]:
    """What an installation for the tests asks for."""
    setup = ConfigParser(interpolation=None)
    setup.read(ROOT / 'setup.cfg')
    lines = setup['options']['install_requires'].splitlines()
    for extra, text in setup['options.extras_require'].items():
        if extra not in UNTESTED:
            lines += text.splitlines()
    return [
        Requirement(line)
        for line in lines
        if line and not line.startswith('%')
    ]


def test_ci_runs_on_the_oldest_versions_that_are_allowed() -> None:
    text = (ROOT / '.ci/oldest.txt').read_text()
    pins = {
        canonicalize_name(name): Version(version)
        for name, _, version in (
            line.partition('==') for line in text.splitlines()
        )
        if version
    }
    for requirement in requirements():
        (bound,) = requirement.specifier
        assert bound.operator == '>='
        pinned = pins[canonicalize_name(requirement.name)]
        assert pinned == Version(bound.version), requirement.name
