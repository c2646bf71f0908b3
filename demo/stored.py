"""The session as DynamoDB stores it, and the pages that explain it."""

from pathlib import Path

from pyramid.httpexceptions import HTTPNotFound
from pyramid.interfaces import ISessionFactory
from pyramid.response import Response
from pyramid.view import view_config

from pyramid_dynamodb_session.store.item import hash_key

DOCS = Path(__file__).parents[1] / 'docs'
MEANINGS = {
    'SessionId': 'the application, and a hash of the id in the cookie',
    'SessionItems': 'what the views see as request.session',
    'CreateDate': 'seconds since 1970',
    'Expires': 'slides with each use; DynamoDB then deletes the item',
    'SessionTimeout': 'seconds, where the session has its own',
    'Owner': 'the application, and a hash of the name: signs out everywhere',
    'Version': 'one more with each save',
    'LockId': 'the request that holds the session right now',
    'LockDate': 'when the lock was taken',
    'LockCount': 'how often the lock has been taken: the fencing number',
    'TakenOver': 'the last holder that died and lost the lock',
    'SavedBy': 'the latest optimistic saves',
    'Flags': '1 until the first read',
    'Ver': 'the format of this record',
}


@view_config(
    route_name='stored',
    renderer='templates/stored.jinja2',
    session_state='read_only',
)
@view_config(
    route_name='stored',
    xhr=True,
    renderer='templates/item.jinja2',
    session_state='read_only',
)
def stored(request):
    item = stored_item(request)
    return {
        'attributes': [
            (name, kind, value, MEANINGS.get(name, ''))
            for name, typed in sorted(item.items(), key=position)
            for kind, value in typed.items()
        ]
    }


def stored_item(request):
    """The raw item: a program needs this no more than it needs the lock."""
    store = request.registry.getUtility(ISessionFactory).store
    session_id = request.session.session_id
    if session_id is None:
        return {}
    application = store.settings.application
    key = hash_key(session_id, application)
    answer = store.client.get_item(
        TableName=store.table.name,
        Key={store.table.key_name: {'S': key}},
        ConsistentRead=True,
    )
    return answer.get('Item', {})


@view_config(route_name='docs', session_state='disabled')
def docs(request):
    """A page of the documentation, as its source text."""
    path = DOCS / f'{request.matchdict["page"]}.rst'
    if not path.is_file():
        raise HTTPNotFound()
    return Response(path.read_text('utf-8'), content_type='text/plain')


def position(attribute):
    name, _ = attribute
    return list(MEANINGS).index(name) if name in MEANINGS else len(MEANINGS)
