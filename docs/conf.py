"""How Sphinx builds these pages; no network is needed."""

import sys
from pathlib import Path
from urllib.request import urlopen

from pyramid_dynamodb_session.version import VERSION

sys.path.insert(0, str(Path(__file__).parent / '_ext'))

project = 'pyramid_dynamodb_session'
author = 'the pyramid_dynamodb_session authors'
project_copyright = author
version = release = VERSION

extensions = [
    'sphinx.ext.autodoc',
    'sphinx.ext.intersphinx',
    'sequence',
    'settings_reference',
]
exclude_patterns = ['_build']
highlight_language = 'text'

autodoc_inherit_docstrings = False
autodoc_member_order = 'bysource'
autodoc_typehints = 'none'

# A reference that leads nowhere is an error, but to where there is a network.
nitpicky = True
nitpick_ignore_regex = [('py:.*', r'(pyramid|botocore)\..*')]

OTHERS = {
    'python': 'https://docs.python.org/3/',
    'pyramid': 'https://docs.pylonsproject.org/projects/pyramid/en/latest/',
}


def is_reachable(url):
    try:
        with urlopen(f'{url}objects.inv', timeout=3):  # noqa: S310
            return True
    except OSError:
        return False


intersphinx_mapping = {
    name: (url, None) for name, url in OTHERS.items() if is_reachable(url)
}

# Furo takes its fonts from the reader's system, so none come over http.
html_theme = 'furo'
html_theme_options = {'navigation_with_keys': True}
html_title = f'{project} {release}'
pygments_style = 'tango'
pygments_dark_style = 'monokai'
toc_object_entries = False
html_static_path = ['_static']
html_css_files = ['pages.css']
html_show_sphinx = False
smartquotes = False
