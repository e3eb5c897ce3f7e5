"""The page on made-up figures: states that a real train reaches only in hours, and hostile texts everywhere."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Page, expect

from tests.dashboard import figures
from tests.dashboard.browser import Complaints, Scripted
from tests.dashboard.figures import NASTY, Figures

TRAIN = "#/train/orders"
SCREENS = ("#/", TRAIN, f"{TRAIN}/wagon/12", f"{TRAIN}/journal", f"{TRAIN}/dead")


def nasty(
    value: Any, keep: frozenset[str] = frozenset({"train", "state", "level", "kind", "verb", "name", "key"})
) -> Any:
    """The figures with markup as each text."""
    if isinstance(value, dict):
        return {k: v if k in keep and k != "name" else nasty(v, keep) for k, v in value.items()}
    if isinstance(value, list):
        return [nasty(each, keep) for each in value]
    return NASTY if isinstance(value, str) else value


def answers(now: float, change: Callable[[Any], Any] = lambda value: value) -> Figures:
    wagon = figures.wagon(12, "draining", now)
    channel = {
        "name": "price",
        "published": 4_784,
        "settled": 4_776,
        "in_flight": 8,
        "waiting": 0,
        "lost": 0,
        "difference": 0,
        "oldest_at": now - 52,
        "newest_at": None,
        "trouble": "",
    }
    rows = [figures.row(now - n, f"switched from orders_v{n} to orders_v{n + 1}", who="anna") for n in range(20, 0, -1)]
    group = {
        "key": "ab12",
        "because": "ValueError: no price for #",
        "channel": "price",
        "count": 3,
        "types": ["order"],
        "first_at": now - 99,
        "last_at": now - 9,
        "wagons": [9, 12],
        "sample": "0193",
    }
    letter = {
        "id": "01936f",
        "type": "order",
        "source": "shop",
        "subject": "eu",
        "time": now - 10,
        "at": now - 9,
        "because": "ValueError: no price for 17",
        "channel": "price",
        "wagon": 12,
        "attempts": 3,
        "content_type": "application/json",
        "bytes": 120,
        "data": {"name": "x"},
        "hidden": False,
    }
    preview = {
        "verb": "pause",
        "wagon": None,
        "allowed": True,
        "refused": "",
        "title": "Pause orders",
        "effects": ["8,200 waiting events stay where they are"],
        "warnings": ["Its limit switches no wagons meanwhile"],
        "counts": {"waiting": 8_200, "in_flight": 96, "inside": None, "wagons": 4, "workers": 26, "processes": 3},
    }
    drop = preview | {
        "verb": "drop",
        "title": "Drop dead letters of orders",
        "effects": ["3 dead letters will be deleted."],
        "warnings": ["They can't be got back."],
        "counts": {"letters": 3},
        "digest": "d1",
    }
    job = {
        "id": "j1",
        "train": "orders",
        "verb": "pause",
        "wagon": None,
        "by": "anna",
        "reason": "",
        "state": "done",
        "text": "orders is paused",
        "began_at": now,
        "ended_at": now + 1,
    }
    found = {
        "trains/orders/wagons/12": {
            "live": True,
            "wagon": wagon,
            "past": None,
            "channels": [channel | {"name": ""}, channel, channel | {"name": "dead"}],
            "balance": {"ok": True, "sentence": "10,000 published = 4,784 settled + 16 in flight + 5,200 waiting"},
            "workers": [{"process": "host-1-a1", "workers": 8, "in_hand": 6}],
            "journal": rows,
        },
        "trains/orders/journal": {"rows": rows, "more": True},
        "trains/orders/dead": {"at": now, "total": 3, "complete": True, "groups": [group]},
        "trains/orders/dead/ab12": {"letters": [letter], "more": False},
        "trains/orders/dead/ab12/actions/drop": drop,
    }
    return {name: change(value) for name, value in found.items()} | {
        "session": figures.session(),
        "trains/orders/history": figures.history(now),
        "trains/orders/actions/pause": preview if change(1) == 1 and change("") == "" else change(preview),
        "jobs": {"jobs": [job]},
    }


def show(page: Page, hash_: str = TRAIN, change: Callable[[Any], Any] = lambda value: value, **more: Any) -> Scripted:
    """The page with a train in a burst. `change` is done to all figures; `more` are fields of the train."""
    now = time.time()
    scripted = Scripted(page, answers(now, change))
    scripted.open(hash_)
    scripted.tell("session", figures.session())
    cards = [figures.card("orders"), figures.card("invoices", "bad"), figures.card("mails", "warn")]
    scripted.tell("trains", {"at": now, "trouble": None, "trains": change(cards)})
    if hash_ != "#/":
        scripted.tell("train", change(figures.train(now, **more)))
        scripted.tell("past", {"reset": True, "wagons": [figures.past(n, now) for n in range(1, 1001)]})
        scripted.tell("journal", {"reset": True, "rows": change([figures.row(now - 9, "switched", who="anna")])})
    scripted.tell("jobs", {"jobs": []})
    expect(page.get_by_role("heading", level=1)).to_be_attached()
    return scripted


def trouble(now: float) -> Figures:
    """Fields of a train for which everything goes wrong at once."""
    pause = {"why": "bad batch", "at": now - 30, "by": "anna", "publishing": False, "whole": False}
    notes = [
        {"level": "bad", "text": "the circuit breaker of ship is open", "todo": "Look at the service behind it"},
        {"level": "warn", "text": "orders_v13 was paused by anna", "todo": "`eventwagon resume orders`"},
        {"level": "info", "text": "watched: orders_v15", "todo": ""},
    ]
    return {
        "verdict": {
            "level": "bad",
            "word": "late",
            "sentence": "New events wait 14 s; 2 s are promised.",
            "since": now,
        },
        "waits": {"new": {"expected": 14.0, "oldest": 12.0}, "backlog": {"expected": None, "oldest": 372.0}},
        "notes": notes,
        "wagons": [
            figures.wagon(13, "draining", now, pause=pause, lost=3, dead=2),
            figures.wagon(14, "failed", now),
            figures.wagon(15, "active", now, fills=[{"limit": "Wait(2.0)", "pressure": 7.0, "why": "14 s"}]),
            figures.wagon(16, "provisioning", now, published=None, waiting=None, settled=None),
        ],
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_screen_is_accessible(page: Page, complaints: Complaints, scheme: Any) -> None:
    page.emulate_media(color_scheme=scheme)
    for hash_ in SCREENS:
        show(page, hash_, **(trouble(time.time()) if hash_ == TRAIN else {}))
        if hash_ == TRAIN:
            for summary in page.locator("summary").all():
                summary.click()
        if hash_.endswith("dead"):
            page.locator("summary").click()
            expect(page.locator("pre")).to_be_visible()
        if hash_.endswith("12"):
            expect(page.get_by_text("the figures add up")).to_be_visible()
        _assert_clean(page, hash_)
    show(page)
    page.get_by_role("button", name="Pause …").click()
    expect(page.get_by_role("dialog").get_by_text("8,200 waiting events")).to_be_visible()
    _assert_clean(page, "the dialog")
    show(page, f"{TRAIN}/dead")
    page.locator("summary").click()
    page.get_by_role("button", name="Drop …").click()
    expect(page.get_by_role("dialog").get_by_text("They can't be got back.")).to_be_visible()
    _assert_clean(page, "the dialog of dead letters")
    show(page)
    lose(page)
    expect(page.get_by_role("alert").first).to_contain_text("Connection lost")
    _assert_clean(page, "a lost connection")


def lose(page: Page) -> None:
    """The stream breaks, and the browser tries again."""
    page.evaluate("feeds[0].readyState = 0; feeds[0].dispatchEvent(new Event('error'))")


def _assert_clean(page: Page, where: str) -> None:
    found = Axe().run(page)
    assert found.violations_count == 0, f"{where}:\n{found.generate_report()}"


def test_all_texts_are_shown_as_text(page: Page, complaints: Complaints) -> None:
    for hash_ in SCREENS:
        show(page, hash_, nasty, **(trouble(time.time()) if hash_ == TRAIN else {}))
        if hash_.endswith("dead"):
            page.locator("summary").click()
        if hash_ == TRAIN:
            page.get_by_role("button", name="Pause …").click()
            expect(page.get_by_role("dialog").locator("li").first).to_be_visible()
        shown = page.get_by_text('<img src=x onerror="document.title=1">').first
        expect(shown).to_be_attached()
        assert page.locator("main img, main script, dialog img, dialog script").count() == 0
        assert "eventwagon" in page.title()


@pytest.mark.parametrize("width", [390, 320])
def test_a_phone_never_scrolls_sideways(page: Page, complaints: Complaints, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    for hash_ in SCREENS:
        show(page, hash_, **(trouble(time.time()) if hash_ == TRAIN else {}))
        if hash_.endswith("12"):
            expect(page.get_by_text("the figures add up")).to_be_visible()
        if hash_.endswith("dead"):
            page.locator("summary").click()
            expect(page.locator("pre")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, hash_


def test_the_verdict_and_what_to_do_come_first(page: Page, complaints: Complaints) -> None:
    show(page, **trouble(time.time()))
    verdict = page.locator(".verdict").first
    expect(verdict).to_contain_text("Late (in trouble) New events wait 14 s; 2 s are promised.")
    expect(verdict).to_contain_text("seen since")
    notes = page.get_by_role("list", name="What needs attention").get_by_role("listitem")
    expect(notes.first).to_contain_text("circuit breaker of ship is open Look at the service behind it")
    box = notes.first.bounding_box()
    assert box is not None
    assert box["y"] < 900  # without scrolling
    expect(page.get_by_text("No switch from v15: the next wagon orders_v16 is not ready")).to_be_visible()


def test_a_text_without_end_is_cut(page: Page, complaints: Complaints) -> None:
    now = time.time()
    scripted = show(page, notes=[{"level": "bad", "text": "x" * 1_000_000, "todo": ""}])
    scripted.tell("journal", {"reset": False, "rows": [figures.row(now, "y" * 1_000_000)]})
    for cut in (page.get_by_text(" … (1000000 characters)").nth(0), page.get_by_text(" … (1000000 characters)").nth(1)):
        expect(cut).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280


def test_settings_are_worded(page: Page, complaints: Complaints) -> None:
    declared = {"keep_warm": 60.0, "at_cap": "fill", "attempts": None, "max_event_bytes": 262144}
    show(page, declared=declared)
    card = page.locator("section", has=page.get_by_role("heading", name="Declaration"))
    for text in ("keep warm60 s", "at capfill", "attemptsnone", "max event bytes262,144 bytes"):
        expect(card).to_contain_text(text)


def test_trains_are_listed_worst_first(page: Page, complaints: Complaints) -> None:
    scripted = show(page, "#/")
    names = page.locator(".train-name")
    expect(names).to_have_text(["invoices", "mails", "orders"])
    expect(page.locator(".verdict")).to_contain_text("2 of 3 trains need attention")
    scripted.tell("trains", {"at": time.time(), "trouble": None, "trains": []})
    expect(page.locator(".verdict")).to_have_attribute("data-level", "unknown")  # it may be the wrong URL
    expect(page.get_by_text("compare the dashboard's --url with theirs")).to_be_visible()
    now = time.time()
    many = [figures.card(f"train-{n:02}", "bad" if n == 30 else "ok") for n in range(40)]
    scripted.tell("trains", {"at": now, "trouble": None, "trains": many})
    expect(names).to_have_count(40)
    expect(names.first).to_have_text("train-30")
    page.get_by_role("searchbox", name="Find a train").fill("-07")
    expect(names).to_have_text(["train-07"])
    names.click()
    expect(page).to_have_url(re.compile("#/train/train-07$"))


def test_past_ten_cars_the_older_ones_are_summed_up(page: Page, complaints: Complaints) -> None:
    now = time.time()
    wagons = [figures.wagon(n, "draining", now, waiting=100, drain_left=float(n)) for n in range(1, 40)]
    show(page, wagons=[*wagons, figures.wagon(40, "active", now)])
    cars = page.get_by_role("list", name="Wagons, newest first").get_by_role("listitem")
    expect(cars).to_have_count(10)
    expect(cars.last).to_contain_text("31 older wagons")
    expect(cars.last).to_contain_text("3,100")
    expect(cars.last).to_contain_text("31 s")
    cars.last.get_by_role("button").click()
    table = page.get_by_role("region", name="All wagons as a table")
    expect(table.locator("tbody tr")).to_have_count(40)


def test_a_thousand_past_wagons_are_a_handful_of_elements(page: Page, complaints: Complaints) -> None:
    show(page)
    page.get_by_text("last day").click()
    expect(page.get_by_text("1,000 wagons")).to_be_visible()
    assert page.locator(".gantt *").count() < 40
    page.locator(".gantt").hover(position={"x": 300, "y": 8})
    expect(page.locator(".gantt .tip")).to_contain_text("removed")
    page.locator("section", has=page.locator(".gantt")).locator("summary").click()
    table = page.get_by_role("region", name="Wagons over time, as a table")
    expect(table.locator("tbody tr")).to_have_count(50)
    complaints.but("404")
    table.get_by_role("link", name="orders_v1000", exact=True).click()
    expect(page.get_by_role("alert").get_by_text("nothing at")).to_be_visible()
    expect(page.get_by_text("Read-only")).to_be_hidden()
    expect(page.get_by_role("heading", name="Channels")).to_be_hidden()
    expect(page.get_by_role("button", name="Pause")).to_be_hidden()


def test_the_first_wagon_is_not_switched_to(page: Page, complaints: Complaints) -> None:
    now = time.time()
    scripted = show(page, wagons=[figures.wagon(1, "active", now)])
    scripted.tell("past", {"reset": True, "wagons": []})
    expect(page.get_by_text("1 wagon, 0 switches")).to_be_visible()


def test_a_wait_that_is_not_known_is_said_to_go_on(page: Page, complaints: Complaints) -> None:
    show(page, waits={"new": {"expected": None, "oldest": 0.5}, "backlog": {"expected": None, "oldest": 9.0}})
    expect(page.locator(".tile").first).to_contain_text("so far; 2 s promised")


def test_an_action_that_is_done_does_not_go_on(page: Page, complaints: Complaints) -> None:
    scripted = show(page)
    (job,) = scripted.answers["jobs"]["jobs"]
    scripted.answers["trains/orders/actions/pause"]["job"] = job | {"state": "running", "ended_at": None}
    page.get_by_role("button", name="Pause …").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Pause").click()
    expect(dialog.get_by_text("it goes on")).to_be_visible()
    scripted.tell("jobs", {"jobs": [job]})
    expect(dialog.get_by_text("it goes on")).to_be_hidden()


def test_curves_can_be_read_as_tables(page: Page, complaints: Complaints) -> None:
    show(page)
    waits = page.locator("section", has=page.get_by_role("heading", name="Waits"))
    waits.locator("summary").click()
    expect(waits.locator("tbody tr")).to_have_count(20)
    expect(waits.locator("tbody tr").first).to_contain_text(" s")
    waits.locator(".plot").hover()
    expect(waits.locator(".tip")).to_contain_text("new events")
    hour = waits.locator("tbody th").last.get_attribute("title")
    page.get_by_text("last day").click()
    expect(waits.locator("tbody th").last).not_to_have_attribute("title", hour or "")
    expect(waits.locator("tbody tr")).to_have_count(20)


def test_only_a_change_of_the_verdict_is_spoken(page: Page, complaints: Complaints) -> None:
    scripted = show(page)
    spoken = page.locator("#spoken")
    now = time.time()
    for waiting in (1, 2, 3):
        scripted.tell("train", figures.train(now, waiting=waiting))
        expect(page.locator(".tile", has_text="Waiting")).to_contain_text(str(waiting))
    expect(spoken).to_be_empty()
    scripted.tell("train", figures.train(now, **trouble(now)))
    expect(spoken).to_have_text("orders: Late. New events wait 14 s; 2 s are promised.")


def test_a_lost_connection_is_said_and_its_figures_are_marked(page: Page, complaints: Complaints) -> None:
    scripted = show(page)
    lost = page.get_by_role("alert").first
    expect(lost).to_be_hidden()
    lose(page)
    expect(lost).to_contain_text("Connection lost at")
    # Nor does the verdict's colour say that all is well.
    expect(page.locator(".verdict").first).to_have_css("filter", "grayscale(1)")
    expect(page.locator("body")).to_have_attribute("data-stale", "")
    scripted.tell("train", figures.train(time.time()))
    expect(lost).to_be_hidden()
    expect(page.locator("#link")).to_have_text("live")


def test_who_may_only_read_sees_no_buttons(page: Page, complaints: Complaints) -> None:
    scripted = show(page)
    expect(page.get_by_role("button", name="Pause …")).to_be_visible()
    scripted.tell("session", figures.session(login="off", can_act=False))
    expect(page.get_by_text("Read-only")).to_be_visible()
    expect(page.get_by_role("button", name="Pause …")).to_be_hidden()


def test_the_dialog_holds_the_focus_and_gives_it_back(page: Page, complaints: Complaints) -> None:
    scripted = show(page)
    button = page.get_by_role("button", name="Pause …")
    button.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Pause orders")
    expect(dialog.get_by_role("button", name="Pause", exact=True)).to_be_enabled()
    for _ in range(12):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement === document.body || !!document.activeElement.closest('dialog')")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(button).to_be_focused()
    page.keyboard.press("Enter")
    expect(dialog).to_be_visible()
    page.evaluate("location.hash = '#/'")
    expect(dialog).to_be_hidden()
    assert scripted.posted == []


def test_the_colours_are_kept(page: Page, complaints: Complaints) -> None:
    show(page)
    switch = page.get_by_role("button", name="Colours")
    switch.click()
    switch.click()
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    show(page)
    assert page.locator("html").get_attribute("data-theme") == "dark"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark


_HOUR = (Path(__file__).parent / "hour.js").read_text()


@pytest.mark.parametrize("minutes", [20, pytest.param(60, marks=pytest.mark.soak)])
def test_a_page_left_open_does_not_grow(page: Page, complaints: Complaints, minutes: int) -> None:
    page.set_viewport_size({"width": 400, "height": 300})  # less to paint thousands of times
    show(page)
    devtools = page.context.new_cdp_session(page)
    devtools.send("Performance.enable")
    train = figures.train(time.time())

    def measured(begin: int, end: int) -> dict[str, float]:
        page.evaluate(_HOUR, [train, begin, end])
        for _ in range(3):
            devtools.send("HeapProfiler.collectGarbage")
        metrics = devtools.send("Performance.getMetrics")["metrics"]
        return {each["name"]: each["value"] for each in metrics}

    seconds = 60 * minutes
    early, late = measured(0, 600), measured(600, seconds)
    expect(page.locator(".tile", has_text="Waiting")).to_contain_text(f"{seconds - 1:,}")
    assert late["Nodes"] <= early["Nodes"] * 1.1
    assert late["JSEventListeners"] <= early["JSEventListeners"] * 1.1
    assert late["JSHeapUsedSize"] <= early["JSHeapUsedSize"] * 1.25
