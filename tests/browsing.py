"""Pages opened in a browser, whole before they are looked at."""

from __future__ import annotations

from typing import Any

from apart import until

READY = "return location.protocol !== 'about:' && document.readyState === 'complete'"


def open_page(browser: Any, address: str) -> None:
    """Open a page, and wait until it was read to its end.

    The driver may hand a page over before that, above all where the one before had the same
    address; so there is an empty one between them.
    """
    from selenium.common.exceptions import WebDriverException

    def ready() -> bool:
        try:
            return bool(browser.execute_script(READY))
        except WebDriverException:  # the page before went away meanwhile
            return False

    browser.get("about:blank")
    browser.get(address)
    until(ready)
