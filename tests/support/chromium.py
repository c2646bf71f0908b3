"""Headless Chromium, as the tests drive it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = [
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--hide-scrollbars',
]


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """A Selenium driver; without Chromium the test is skipped."""
    browser = shutil.which('chromium')
    driver = shutil.which('chromedriver')
    if not (browser and driver):
        pytest.skip('chromium and chromedriver are not installed')
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in [*FLAGS, f'--user-data-dir={profile}']:
        options.add_argument(flag)
    running = webdriver.Chrome(options, Service(driver))
    try:
        yield running
    finally:
        running.quit()


class Page:
    """What is on the page, found by CSS selectors."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def one(self, selector: str) -> Any:
        return self.driver.find_element('css selector', selector)

    def text(self, selector: str) -> str:
        return str(self.one(selector).text)

    def wait_for(self, selector: str, text: str) -> None:
        from selenium.common.exceptions import (
            NoSuchElementException,
            StaleElementReferenceException,
        )
        from selenium.webdriver.support.ui import WebDriverWait

        # while a page is loading, the old one may be gone already
        loading = [NoSuchElementException, StaleElementReferenceException]
        WebDriverWait(self.driver, 60, ignored_exceptions=loading).until(
            lambda _: text in self.text(selector),
            f'no {text!r} in {selector}',
        )
