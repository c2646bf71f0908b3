"""Signing in, and out everywhere: by the owner of the sessions."""

from datetime import datetime

from pyramid.httpexceptions import HTTPBadRequest, HTTPSeeOther
from pyramid.interfaces import ISessionFactory
from pyramid.view import exception_view_config, view_config

from pyramid_dynamodb_session import SessionLockLost

#: Characters of the longest name.
LONGEST = 40


@view_config(route_name='sign_in', request_method='POST')
def sign_in(request):
    """Whoever says a name is believed: an application asks for a password."""
    name = request.POST.get('name', '').strip()
    if not 0 < len(name) <= LONGEST:
        raise HTTPBadRequest('What is your name?')
    session = request.session
    session.regenerate_id()
    session['name'] = name
    session.owner = name
    session.flash(f'You are signed in as {name}.')
    return HTTPSeeOther(request.route_url('shop'))


@view_config(route_name='sign_out_others', request_method='POST')
def sign_out_others(request):
    session = request.session
    if 'name' not in session:
        raise HTTPBadRequest('You are not signed in.')
    ended = store_of(request).remove_sessions_of(session['name'], session)
    session.flash(f'Other browsers that were signed out: {ended}.')
    return HTTPSeeOther(request.route_url('shop'))


@exception_view_config(SessionLockLost, renderer='templates/signed_out.jinja2')
def signed_out(error, request):
    """The session was ended while this browser was about to use it.

    For ten seconds, no rival session begins in its place; then any page does.
    """
    request.response.status_code = error.code
    return {}


def devices(request):
    """The browsers in which this visitor is signed in, the newest first."""
    session, store = request.session, store_of(request)
    if 'name' not in session:
        return []
    here = store.name_of(session)
    found = sorted(
        store.sessions_of(session['name']),
        key=lambda record: record.created,
        reverse=True,
    )
    return [
        {
            'is_here': record.name == here,
            'created': clock(record.created),
            'last_seen': clock(record.expires - store.settings.timeout),
        }
        for record in found
    ]


def store_of(request):
    return request.registry.getUtility(ISessionFactory).store


def clock(seconds):
    return datetime.fromtimestamp(seconds).strftime('%H:%M:%S')
