"""The directive ``sequence``: a sequence diagram, drawn as inline SVG.

It takes its colours from the page around it, so it can be read in light and
in dark. The content says who takes part, then one step a line::

    A, B, C
    A -> B: a message
    A -x B: a message that gets lost on its way
    B: something that B does
    --- time passes
"""

import re
from html import escape

from docutils import nodes
from docutils.parsers.rst import Directive

#: Pixels: between two lifelines, beside the outer ones, between two steps,
#: above the first one, and the width of a character.
LANE, MARGIN, STEP, TOP, CHARACTER = 270, 90, 36, 66, 7
MESSAGE = re.compile(r'([\w ]+) -([>x]) ([\w ]+): (.*)')
ACTION = re.compile(r'([\w ]+): (.*)')


class Sequence(Directive):
    """``.. sequence:: Title``, and the steps."""

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True

    def run(self):
        if self.state.document.settings.env.app.builder.format != 'html':
            return [nodes.literal_block('', '\n'.join(self.content))]
        drawing = Drawing(self.arguments[0], list(self.content))
        svg = nodes.raw('', drawing.svg(), format='html')
        return [nodes.container('', svg, classes=['sequence'])]


class Drawing:
    def __init__(self, title, lines):
        self.title = title
        names = [name.strip() for name in lines[0].split(',')]
        self.x = {
            name: MARGIN + LANE * index for index, name in enumerate(names)
        }
        self.width = LANE * (len(names) - 1) + 2 * MARGIN
        #: where a lifeline makes room for a box
        self.gaps = {name: [] for name in names}
        self.y = TOP
        self.parts = []
        for line in filter(None, lines[1:]):
            self.step(line)
            self.y += STEP

    def step(self, line):
        if line.startswith('---'):
            self.pause(line.strip('- '))
        elif match := MESSAGE.fullmatch(line):
            self.message(*match.groups())
        elif match := ACTION.fullmatch(line):
            self.action(*match.groups())
        else:
            raise ValueError(f'no step of a sequence: {line}')

    def message(self, sender, kind, receiver, text):
        start, end, y = self.x[sender], self.x[receiver], self.y
        self.text((start + end) / 2, y - 7, text)
        back = -7 if end > start else 7
        if kind == '>':
            self.path(f'M{start},{y} H{end} m{back},-4 l{-back},4 l{back},4')
        else:
            end += 5 * back
            self.path(f'M{start},{y} H{end}', dashes='5 4')
            self.path(f'M{end - 5},{y - 5} l10,10 m0,-10 l-10,10')

    def action(self, name, text):
        x, y = self.x[name], self.y
        width = CHARACTER * len(text) + 20
        self.parts.append(
            f'<rect x="{x - width / 2}" y="{y - 20}" width="{width}" '
            'height="26" rx="4"/>'
        )
        self.text(x, y - 3, text)
        self.gaps[name].append((y - 20, y + 6))

    def pause(self, text):
        self.path(f'M0,{self.y - 4} H{self.width}', dashes='1 5')
        self.text(self.width / 2, self.y - 10, text, 'font-style="italic"')
        for gaps in self.gaps.values():
            gaps.append((self.y - 24, self.y - 4))

    def path(self, commands, dashes='none', opacity=1):
        self.parts.append(
            f'<path d="{commands}" stroke-dasharray="{dashes}" '
            f'opacity="{opacity}"/>'
        )

    def text(self, x, y, text, style=''):
        self.parts.append(
            f'<text x="{x}" y="{y}" {style}>{escape(text)}</text>'
        )

    def lifeline(self, name):
        x, y = self.x[name], 30
        self.text(x, 20, name, 'font-weight="bold"')
        for above, below in [*self.gaps[name], (self.y - 10, self.y)]:
            self.path(f'M{x},{y} V{above}', opacity=0.35)
            y = below

    def svg(self):
        for name in self.x:
            self.lifeline(name)
        title = escape(self.title)
        return (
            f'<svg viewBox="0 0 {self.width} {self.y}" width="{self.width}" '
            f'role="img" aria-label="{title}"><title>{title}</title>'
            f'{"".join(self.parts)}</svg>'
        )


def setup(app):
    app.add_directive('sequence', Sequence)
    return {'parallel_read_safe': True}
