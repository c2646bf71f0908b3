"""The code blocks of README.rst and the documentation, made to run.

A page's ``python`` blocks run in order as one module, which is called
``shop``; its ``ini`` blocks are settings that an application must accept. A
block with a caption is the file of that name instead. What can't run has
another language: ``sh``, ``text``, ``xml``.
"""

from __future__ import annotations

import configparser
import re
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from pyramid.config import Configurator

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / 'README.rst',
    *sorted((ROOT / 'docs').glob('*.rst')),
]
BLOCK = re.compile(
    r'^(?P<indent> *)\.\. code-block:: (?P<language>\w+)\n'
    r'(?P<options>(?:(?P=indent) +:.*\n)*)'
    r'\n'
    r'(?P<body>(?:(?P=indent) +.*\n|\n)+)',
    re.MULTILINE,
)
CAPTION = re.compile(r':caption: (.+)')
ROUTE = re.compile(r"route_name='(\w+)'")
#: The setting that tells :func:`main` which page's application to be.
PAGE = 'tests.docs_page'


@dataclass
class Page:
    path: Path
    #: The file that each captioned block is.
    files: dict[str, str] = field(default_factory=dict)
    #: All other blocks, by language.
    blocks: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for block in BLOCK.finditer(self.path.read_text()):
            body = textwrap.dedent(block['body'])
            caption = CAPTION.search(block['options'])
            if caption:
                self.files[caption[1]] = body
            else:
                self.blocks.setdefault(block['language'], []).append(body)

    @property
    def code(self) -> str:
        return '\n\n'.join(self.blocks.get('python', []))

    def run(self) -> ModuleType:
        """The module ``shop`` that the ``python`` blocks are."""
        module = sys.modules['shop'] = ModuleType('shop')
        module.__file__ = str(self.path)
        exec(compile(self.code, str(self.path), 'exec'), vars(module))
        return module

    def settings(self) -> list[dict[str, str]]:
        """What each ``ini`` block, and file, has in its ``[app:main]``."""
        files = [
            text for name, text in self.files.items() if name.endswith('.ini')
        ]
        parsed = map(parse_ini, [*self.blocks.get('ini', []), *files])
        return [dict(ini['app:main']) for ini in parsed if 'app:main' in ini]

    def app(self, settings: dict[str, Any]) -> Any:
        """A WSGI application of all that is on the page."""
        module = self.run()
        if hasattr(module, 'main'):
            return module.main({}, **settings)
        with Configurator(settings=settings) as config:
            config.include('pyramid_dynamodb_session')
            for name in set(ROUTE.findall(self.code)):
                config.add_route(name, f'/{name}')
            config.scan(module)
            if hasattr(module, 'includeme'):
                config.include(module.includeme)
        return config.make_wsgi_app()


def page(name: str) -> Page:
    return Page(next(path for path in PAGES if path.stem == name))


def parse_ini(text: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment]
    parser.read_string(text)
    return parser


def main(global_config: dict[str, str] | None, **settings: Any) -> Any:
    """The application of a page, in a server of its own."""
    return page(settings.pop(PAGE)).app(settings)
