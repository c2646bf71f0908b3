"""The directive ``settings``: the reference, read from the declarations."""

import dataclasses

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

from pyramid_dynamodb_session.settings import FactorySettings

PREFIX = 'dynamodb_session.'


class Settings(Directive):
    """Describe the settings named in the content, or all that are left.

    ``.. settings::`` with no content stands last on its page.
    """

    has_content = True

    def run(self):
        env = self.state.document.settings.env
        done = env.temp_data.setdefault('settings described', set())
        fields = {
            field.name: field for field in dataclasses.fields(FactorySettings)
        }
        names = ' '.join(self.content).split()
        names = names or [name for name in fields if name not in done]
        done.update(names)
        lines = [line for name in names for line in described(fields[name])]
        node = nodes.Element()
        self.state.nested_parse(
            StringList(lines, source=FactorySettings.__module__),
            self.content_offset,
            node,
        )
        return node.children


def described(field):
    """A setting as lines of reStructuredText."""
    default = shown(field.default)
    return [
        f'.. confval:: {PREFIX}{field.name}',
        *([f'   :default: {default}'] if default else []),
        '',
        f'   {field.metadata["doc"]}',
        '',
    ]


def shown(default):
    """A default as it would stand in an ``.ini`` file; empty for none."""
    if default is None or default == ():
        return ''
    if isinstance(default, bool):
        return f'``{str(default).lower()}``'
    if isinstance(default, float):
        return f'``{default:g}``'
    if isinstance(default, (int, str)):
        return f'``{default}``'
    return f'``{type(default).__name__}``'


def setup(app):
    app.add_directive('settings', Settings)
    return {'parallel_read_safe': True}
