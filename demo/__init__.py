"""The application is put together here; what it does is in the views."""

from pyramid.config import Configurator
from pyramid.tweens import INGRESS


def main(global_config, **settings):
    """What ``development.ini`` serves."""
    with Configurator(settings=settings) as config:
        config.set_default_csrf_options(require_csrf=True)
        config.add_static_view('static', 'static')
        config.add_route('shop', '/')
        config.add_route('add', '/cart/add')
        config.add_route('remove', '/cart/remove')
        config.add_route('clear', '/cart/clear')
        config.add_route('sign_in', '/sign-in')
        config.add_route('sign_out_others', '/sign-out-others')
        config.add_route('stored', '/stored')
        config.add_route('docs', r'/docs/{page:[a-z-]+}')
        config.add_route('race', '/race/{contender}')
        # around the saving of the session, which is part of the cost
        config.add_tween(
            'demo.race.measure',
            under=INGRESS,
            over='pyramid_dynamodb_session.factory.session_tween_factory',
        )
        config.scan()
    return config.make_wsgi_app()
