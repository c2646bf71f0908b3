"""The coverage-guided fuzzer; it needs atheris, which the tests don't.

``python -m tests.fuzz cookie -max_total_time=600 tests/fuzz/corpus/cookie``;
``item``, ``reply`` or ``serializer``. What follows the name of the target is
for libFuzzer, which adds to the first directory what it finds.
"""

import sys

import atheris

with atheris.instrument_imports(
    include=[
        *('http.client', 'json'),
        *('pyramid_dynamodb_session', 'webob.cookies'),
    ]
):
    from tests.fuzz import targets

if __name__ == '__main__':
    target = getattr(targets, sys.argv.pop(1))
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
