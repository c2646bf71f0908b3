"""The shop: an ordinary Pyramid application with an ordinary session."""

from typing import NamedTuple

from pyramid.httpexceptions import HTTPBadRequest, HTTPSeeOther
from pyramid.view import view_config

from .account import devices
from .race import CONTENDERS


class Product(NamedTuple):
    name: str
    cents: int


PRODUCTS = {
    'tea': Product('Darjeeling tea, 100 g', 890),
    'honey': Product('Heather honey, 250 g', 750),
    'bread': Product('Rye bread', 420),
    'cheese': Product('Mountain cheese, 200 g', 640),
}


@view_config(route_name='shop', renderer='templates/shop.jinja2')
def shop(request):
    cart = request.session.get('cart', {})
    return {
        'products': PRODUCTS,
        'cart': cart,
        'total': sum(PRODUCTS[sku].cents * n for sku, n in cart.items()),
        'contenders': CONTENDERS,
        'devices': devices(request),
    }


@view_config(route_name='add', request_method='POST')
def add(request):
    sku = posted_sku(request)
    cart = request.session.setdefault('cart', {})
    # A nested value: no need to tell the session that it has changed.
    cart[sku] = cart.get(sku, 0) + 1
    request.session.flash(f'{PRODUCTS[sku].name} is in your cart.')
    return back_to_shop(request)


@view_config(route_name='remove', request_method='POST')
def remove(request):
    sku = posted_sku(request)
    request.session.get('cart', {}).pop(sku, None)
    request.session.flash(f'{PRODUCTS[sku].name} is out of your cart.')
    return back_to_shop(request)


@view_config(route_name='clear', request_method='POST')
def clear(request):
    request.session.pop('cart', None)
    request.session.flash('Your cart is empty again.')
    return back_to_shop(request)


def posted_sku(request):
    sku = request.POST.get('sku')
    if sku not in PRODUCTS:
        raise HTTPBadRequest('We do not sell that.')
    return sku


def back_to_shop(request):
    return HTTPSeeOther(request.route_url('shop'))
