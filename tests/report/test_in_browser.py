"""The report in a real browser: filtered, shown large, read off patch by patch, with keys too.

Chromium and its driver are needed: on Debian, `apt install chromium chromium-driver`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from apart import until
from browsing import open_page
from report.pages import report_of

webdriver = pytest.importorskip("selenium.webdriver")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    report_of(folder, counterpart=True)
    return folder / "run" / "report.html"


@pytest.fixture
def page(browser: Any, written: Path) -> Any:
    open_page(browser, written.as_uri())
    return browser


def found(page: Any, selector: str) -> list[Any]:
    elements: list[Any] = page.find_elements("css selector", selector)
    return elements


def visible(page: Any, selector: str = ".card") -> list[Any]:
    return [one for one in found(page, selector) if one.is_displayed()]


def press(page: Any, *keys: str) -> None:
    webdriver.ActionChains(page).send_keys(*keys).perform()


def choose(page: Any, name: str, value: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(found(page, f".filter [name={name}]")[0]).select_by_visible_text(value)


def test_it_runs_its_script_and_complains_of_nothing(page: Any) -> None:
    assert page.get_log("browser") == []
    assert visible(page, ".filter")
    assert page.execute_script("return document.documentElement.scrollWidth") <= 1100


def test_cards_are_filtered(page: Any) -> None:
    every = len(found(page, ".card"))
    assert len(visible(page)) == every
    choose(page, "which", "wrong")
    wrong = visible(page)
    assert {"card wrong"} == {one.get_attribute("class") for one in wrong}
    choose(page, "class", "bee")
    some = visible(page)
    assert 0 < len(some) < len(wrong)
    assert all(
        "bee" in (c.get_attribute("data-answer"), c.get_attribute("data-labels")) for c in some
    )
    assert visible(page, ".filter p")[0].text == f"{len(some)} of {every} images on this page"
    choose(page, "class", "any")
    choose(page, "which", "right and wrong")
    slider = found(page, ".filter [name=sure]")[0]
    page.execute_script(
        "arguments[0].value = 60; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))",
        slider,
    )
    sure = {float(one.get_attribute("data-sure")) >= 0.6 for one in visible(page)}
    assert sure == {True}
    assert len(visible(page)) < every


def test_a_patch_is_read_off_under_the_pointer(page: Any) -> None:
    import json

    card = found(page, ".card")[0]
    patches = json.loads(card.get_attribute("data-patches"))
    found(card, ".pictures")[0].click()
    assert visible(page, "dialog")
    frame = visible(page, "dialog .frame")[0]
    width, height = frame.size["width"], frame.size["height"]
    # The middle of the patch in row 2, column 3, from the middle of the picture.
    x = round(width * (patches["x"][2] - 0.5))
    y = round(height * (patches["y"][1] - 0.5))
    webdriver.ActionChains(page).move_to_element_with_offset(frame, x, y).perform()
    said = visible(page, "dialog .says")[0].text
    assert said.startswith(f"patch in row 2, column 3, for {card.get_attribute('data-target')}:")
    index = len(patches["x"]) + 2
    for name in ("evidence", "margin"):
        value = patches["values"][name][index]
        shown = float(said.split(f"{name} ")[1].split(",")[0].replace("\N{MINUS SIGN}", "-"))
        assert shown == pytest.approx(value)
    mark = found(frame, ".mark")[0].rect
    assert mark["width"] == pytest.approx(width * patches["window"][0], abs=1.5)
    middle = mark["x"] + mark["width"] / 2 - frame.rect["x"]
    assert middle == pytest.approx(width * patches["x"][2], abs=1.5)


def test_keys_alone_are_enough(page: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    opener = found(page, ".card .pictures")[1]
    page.execute_script("arguments[0].focus()", opener)
    press(page, Keys.ENTER)
    assert visible(page, "dialog")
    before = visible(page, "dialog .says")[0].text
    press(page, Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    press(page, *[Keys.ARROW_UP] * 4)
    after = visible(page, "dialog .says")[0].text
    assert after.startswith("patch in row 1, column 1, ")
    press(page, Keys.ARROW_RIGHT)
    assert visible(page, "dialog .says")[0].text.startswith("patch in row 1, column 2, ")
    assert before
    press(page, Keys.ESCAPE)
    assert not visible(page, "dialog")
    assert page.switch_to.active_element == opener


def test_it_fits_a_telephone_and_the_dark(page: Any) -> None:
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True},
    )
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": "dark"}]},
    )
    try:
        assert page.execute_script("return document.documentElement.scrollWidth") <= 390
        colour = "return getComputedStyle(document.body).backgroundColor"
        assert page.execute_script(colour) == "rgb(22, 22, 22)"
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_without_its_script_everything_is_there(browser: Any, written: Path) -> None:
    browser.get("about:blank")
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(written.as_uri())
        every = written.read_text().count('<article class="card')
        assert every > 0
        # Without scripts nothing tells when its end was read.
        until(lambda: len(visible(browser)) == every)
        assert not visible(browser, ".filter")
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_what_is_folded_is_printed(page: Any) -> None:
    assert not found(page, "#scores details")[0].get_attribute("open")
    page.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert all(one.get_attribute("open") for one in found(page, "details"))


def test_the_overview_of_a_folder_shows_its_pictures(browser: Any, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image
    from report.pages import make_model

    from loss_attention.explained.files import explain_files

    (tmp_path / "in").mkdir()
    for name in ("a.png", "b #1.png"):
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "in" / name)
    found = explain_files(
        make_model("loss-attention", ("cat", "dog")), [tmp_path / "in"], tmp_path / "out"
    )
    assert found.index is not None
    open_page(browser, found.index.as_uri())
    widths = "return [...document.images].map((image) => image.naturalWidth)"
    browser.execute_script("for (const one of document.images) one.loading = 'eager'")
    browser.execute_async_script(
        "const done = arguments[0];"
        "Promise.all([...document.images].map((image) => image.decode())).then(done, done)"
    )
    assert min(browser.execute_script(widths)) > 100
    assert browser.get_log("browser") == []
