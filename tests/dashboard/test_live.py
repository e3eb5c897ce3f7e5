"""The dashboard of a real train: a burst watched live, each action pressed, a server that is restarted."""

from __future__ import annotations

import re

from playwright.sync_api import Locator, Page, expect

from eventwagon import Connection
from eventwagon.event import wagon_name
from tests.dashboard.browser import Complaints
from tests.dashboard.figures import NASTY
from tests.dashboard.staging import TOKEN, Stage, orders

REFUSED = "401"
AWAY = "ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED_ENCODING|ERR_EMPTY_RESPONSE|ERR_CONNECTION_RESET|net::ERR"
TRAIN = "#/train/orders"


def sign_in(page: Page, stage: Stage, hash_: str = TRAIN) -> None:
    page.goto(stage.address + hash_)
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()


def press(page: Page, verb: str, reason: str = "") -> None:
    """An action on the train or wagon that is shown, up to its end."""
    page.get_by_role("button", name=f"{verb} …").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reason, for the journal").fill(reason)
    dialog.get_by_label("Your name, for the journal").fill("anna")
    dialog.get_by_role("button", name=verb, exact=True).click()
    expect(dialog.get_by_role("status")).to_contain_text(": done")
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_be_hidden()


def test_a_burst_is_watched_live(page: Page, complaints: Complaints, stage: Stage) -> None:
    train = stage.run(orders(limit=100))
    stage.start_dashboard(token=None)
    page.goto(stage.address)
    expect(page.get_by_role("heading", name="orders", level=1)).to_be_visible()  # the only train is shown at once
    expect(page.get_by_text("Read-only")).to_be_visible()
    stage.do(train.publish_many([0.02] * 350))
    cars = page.get_by_role("list", name="Wagons, newest first")
    expect(cars.get_by_role("link", name=wagon_name("orders", 4))).to_be_visible()
    expect(page.get_by_role("heading", name=re.compile("Wagons over time.* switches"))).to_be_visible()
    journal = page.get_by_role("list", name="Latest entries of the journal")
    expect(journal).to_contain_text("orders_v3 removed: took 100 events")
    expect(page.locator(".tile", has_text="Waiting")).to_contain_text("0 in flight")
    page.goto(f"{stage.address}{TRAIN}/wagon/2")
    expect(page.get_by_role("heading", name="orders_v2")).to_be_visible()
    expect(page.locator(".tile", has_text="Settled").first).to_contain_text("100")
    expect(page.locator(".life")).to_contain_text("removed")


def test_each_action_is_pressed_and_has_its_effect(page: Page, complaints: Complaints, stage: Stage) -> None:
    train = stage.run(orders())
    stage.do(train.publish(0.0))
    stage.start_dashboard()
    complaints.but(REFUSED)
    sign_in(page, stage)

    press(page, "Pause", "the mail server moves")
    pause = train.manifest.paused
    assert pause is not None
    assert (pause.why, pause.by) == ("the mail server moves", "anna at the dashboard")
    expect(page.locator("#screen").get_by_text("Pause: done")).to_be_visible()  # among the latest actions
    expect(page.locator(".verdict")).to_contain_text("Paused")

    press(page, "Resume")
    assert train.manifest.paused is None

    before = train.manifest.active
    assert before is not None
    press(page, "Switch")
    stage.until(lambda: train.manifest.active is not None and train.manifest.active.number > before.number)

    active = train.manifest.active
    assert active is not None
    stage.do(train.publish_many([0.01] * 20))
    press(page, "Drain")
    stage.until(lambda: train.manifest.wagon(active.number) is None)

    now = train.manifest.active
    assert now is not None
    page.goto(f"{stage.address}{TRAIN}/wagon/{now.number}")
    press(page, "Pause")
    stage.until(lambda: (w := train.manifest.wagon(now.number)) is not None and w.paused is not None)
    press(page, "Resume")
    stage.until(lambda: (w := train.manifest.wagon(now.number)) is not None and w.paused is None)

    page.goto(f"{stage.address}{TRAIN}/journal?q=anna")
    rows = page.get_by_role("list", name="Journal, newest first").get_by_role("listitem")
    expect(rows.filter(has_text="the mail server moves").first).to_contain_text("anna at the dashboard, in")


def test_dead_letters_are_retried_and_dropped(page: Page, complaints: Complaints, stage: Stage) -> None:
    train = stage.run(orders())
    stage.do(train.publish_many(["no price"] * 3))
    stage.do(train.publish_many(["no address"] * 2))

    def letters() -> set[str]:
        return stage.do(_letters(train))

    stage.until_true(lambda: len(letters()) == 5)
    stage.start_dashboard()
    complaints.but(REFUSED)
    sign_in(page, stage, f"{TRAIN}/dead")
    expect(page.get_by_text("5 dead letters, by 2 errors")).to_be_visible()
    before = letters()

    group = page.locator(".group", has_text="no price")
    group.locator("summary").click()
    order(page, group, "Retry", "3 events will be published again", "3 dead letters published again", "prices are back")
    stage.until_true(lambda: letters() == before)  # the same ids: they died again, and were retried once
    expect(page.get_by_text("5 dead letters, by 2 errors")).to_be_visible()

    group = page.locator(".group", has_text="no address")
    group.locator("summary").click()
    order(page, group, "Drop", "2 dead letters will be deleted", "2 dead letters deleted")
    expect(page.get_by_text("3 dead letters, by 1 error")).to_be_visible()
    assert len(letters()) == 3

    group = page.locator(".group")
    group.locator("summary").click()
    group.get_by_role("button", name="Drop …").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("3 dead letters will be deleted")
    stage.do(train.publish("no price"))
    stage.until_true(lambda: len(letters()) == 4)
    dialog.get_by_role("button", name="Drop", exact=True).click()
    expect(dialog.get_by_role("status")).to_contain_text("Nothing was done")  # the set has changed
    dialog.get_by_role("button", name="Close").click()
    expect(page.get_by_text("4 dead letters, by 1 error")).to_be_visible()
    assert len(letters()) == 4

    page.goto(f"{stage.address}{TRAIN}/journal?q=anna")
    rows = page.get_by_role("list", name="Journal, newest first").get_by_role("listitem")
    expect(rows.filter(has_text="prices are back").first).to_contain_text("anna at the dashboard, in")
    page.get_by_role("button", name="Sign out").click()


def order(page: Page, group: Locator, verb: str, effect: str, outcome: str, reason: str = "") -> None:
    """An order about the dead letters of a group, up to its end."""
    group.get_by_role("button", name=f"{verb} …").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(effect)
    dialog.get_by_label("Reason, for the journal").fill(reason)
    dialog.get_by_label("Your name, for the journal").fill("anna")
    dialog.get_by_role("button", name=verb, exact=True).click()
    expect(dialog.get_by_role("status")).to_contain_text(f"{verb}: done")
    expect(dialog.get_by_role("status")).to_contain_text(outcome)
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_be_hidden()


async def _letters(train: Connection) -> set[str]:
    return {letter.id async for letter in train.dead_letters()}


def test_who_may_only_read_can_do_nothing_with_dead_letters(page: Page, complaints: Complaints, stage: Stage) -> None:
    train = stage.run(orders())
    stage.do(train.publish("no price"))
    stage.until_true(lambda: len(stage.do(_letters(train))) == 1)
    stage.start_dashboard(token=None)
    page.goto(f"{stage.address}{TRAIN}/dead")
    group = page.locator(".group")
    group.locator("summary").click()
    expect(group.get_by_text("Payload of")).to_be_visible()
    expect(page.get_by_role("button", name="Drop …")).to_be_hidden()
    expect(page.get_by_role("button", name="Retry …")).to_be_hidden()


def test_an_action_by_keyboard_alone(page: Page, complaints: Complaints, stage: Stage) -> None:
    train = stage.run(orders())
    stage.do(train.publish(0.0))
    stage.start_dashboard()
    complaints.but(REFUSED)
    page.goto(stage.address + TRAIN)
    expect(page.get_by_label("Token")).to_be_focused()
    page.keyboard.type(TOKEN)
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Pause …")).to_be_visible()
    tab_to(page, "Pause …")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Pause orders")
    expect(dialog.get_by_role("button", name="Pause", exact=True)).to_be_enabled()
    tab_to(page, "Pause")
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("status")).to_contain_text("Pause: done")
    page.keyboard.press("Enter")  # Close has the focus
    expect(dialog).to_be_hidden()
    assert train.manifest.paused is not None


def tab_to(page: Page, name: str) -> None:
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == name:
            return
    raise AssertionError(f"{name} can't be reached by Tab")


def test_a_wrong_token_is_refused(page: Page, complaints: Complaints, stage: Stage) -> None:
    stage.run(orders())
    stage.start_dashboard()
    complaints.but(REFUSED)
    page.goto(stage.address)
    page.get_by_label("Token").fill("let-me-steer-all-trains")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert").filter(has_text="token")).to_be_visible()
    expect(page.locator(".verdict")).to_be_hidden()
    page.get_by_label("Token").fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.locator(".verdict").first).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Token")).to_be_visible()
    expect(page.locator(".verdict")).to_be_hidden()


def test_whoever_is_signed_out_by_the_server_is_asked_again(page: Page, complaints: Complaints, stage: Stage) -> None:
    train = stage.run(orders())
    stage.do(train.publish(0.0))
    stage.start_dashboard()
    complaints.but(f"{REFUSED}|{AWAY}")
    sign_in(page, stage)
    expect(page.locator(".verdict").first).to_be_visible()
    page.get_by_role("button", name="Pause …").click()
    stage.stop_dashboard()
    stage.start_dashboard()  # it knows no sessions of the one before
    expect(page.get_by_label("Token")).to_be_visible()
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.get_by_label("Token").fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Pause …")).to_be_visible()


def test_an_event_full_of_markup_is_shown_as_text(page: Page, complaints: Complaints, stage: Stage) -> None:
    train = stage.run(orders())
    stage.do(train.publish(NASTY.replace("\u202e", ""), subject="<b>bold</b>", event_type="<script>type</script>"))
    stage.start_dashboard(token=None)
    page.goto(stage.address + TRAIN)
    page.get_by_role("link", name="Dead letters (1)").click()
    group = page.locator(".group")
    expect(group).to_contain_text('<img src=x onerror="document.title=#"><script>document.title=#</script>')
    group.locator("summary").click()
    expect(group.get_by_text("<b>bold</b>")).to_be_visible()
    expect(group.get_by_text("hidden: the server shows payloads with --payloads")).to_be_visible()
    assert page.locator("main img, main script, main dd b").count() == 0
    assert page.title() == "Dead letters of orders · eventwagon"


def test_it_recovers_when_the_server_was_restarted(page: Page, complaints: Complaints, stage: Stage) -> None:
    train = stage.run(orders())
    stage.do(train.publish(0.0))
    stage.start_dashboard(token=None)
    complaints.but(AWAY)
    page.goto(stage.address + TRAIN)
    expect(page.locator("#link")).to_have_text("live")
    stage.stop_dashboard()
    expect(page.get_by_role("alert").first).to_contain_text("Connection lost at")
    expect(page.locator("body")).to_have_attribute("data-stale", "")
    stage.start_dashboard(token=None)
    expect(page.locator("#link")).to_have_text("live")
    expect(page.get_by_role("alert").first).to_be_hidden()
    stage.do(train.pause("after the restart"))
    expect(page.locator(".verdict")).to_contain_text("Paused")


def test_many_trains_and_a_train_that_does_not_exist(page: Page, complaints: Complaints, stage: Stage) -> None:
    for name in ("orders", "invoices", "mails"):
        connection = stage.run(orders(name))
        stage.do(connection.publish(0.0))
    stage.do(connection.pause("moves"))
    stage.start_dashboard(token=None)
    page.goto(stage.address)
    names = page.locator(".train-name")
    expect(names).to_have_count(3)
    expect(names.first).to_have_text("mails")
    page.goto(f"{stage.address}#/train/nobody")
    expect(page.get_by_role("main")).to_contain_text("There is no such train here")
    expect(page.get_by_text("Read at")).to_be_hidden()
    names = page.get_by_role("navigation").get_by_role("link", name="Trains")
    names.click()
    expect(page.locator(".train-name")).to_have_count(3)
    complaints.but("404")
    page.goto(f"{stage.address}#/train/no%20name%25")
    expect(page.get_by_role("main")).to_contain_text("there is no train of this name")
    expect(page.locator("#link")).to_have_text("live")
    expect(page.locator("#lost")).to_be_hidden()
    names.click()
    expect(page.locator(".train-name")).to_have_count(3)
