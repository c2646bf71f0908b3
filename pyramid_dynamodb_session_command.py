"""The console script ``dynamodb-session``.

Outside of the package, as importing that imports Pyramid, whose use of
``pkg_resources`` makes setuptools print a warning: cron would mail it every
night.
"""

from __future__ import annotations

import sys
import warnings


def main() -> None:
    warnings.filterwarnings('ignore', message='pkg_resources is deprecated')
    from pyramid_dynamodb_session.command import run

    sys.exit(run())
