"""Which dead letters died of the same."""

from __future__ import annotations

import pytest

from eventwagon.policy.letters import kind_of


@pytest.mark.parametrize(
    ("because", "kind"),
    [
        ("it is no UTF-8 from byte 17 on", "it is no UTF-8 from byte # on"),
        ("'utf-8' codec can't decode byte 0xff in position 3", "'utf-8' codec can't decode byte # in position #"),
        ("its subject holds U+0000 at 12", "its subject holds U+0000 at #"),
        ("it has both data and data_base64", "it has both data and data_base64"),
        ("order-17 of 3.50 at 0xdeadbeef", "order-# of # at #"),
        ("17 bytes, more than max_event_bytes=262,144: x", "# bytes, more than max_event_bytes=262,144: x"),
        ("ValueError: user_id=17 not found", "ValueError: user_id=# not found"),
        ("no user 8f14e45f-ceea-467f-a9b2-0d1e2c3b4a5f", "no user #"),
    ],
)
def test_a_kind_keeps_names_and_drops_what_differs(because: str, kind: str) -> None:
    assert kind_of(because) == kind
