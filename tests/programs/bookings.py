"""A train whose handler books in a SQLite database, in a transaction: for tests that kill its processes."""

from __future__ import annotations

import os
import sqlite3
import time

from eventwagon import Train, Workers
from eventwagon.transactions import in_transaction

bookings = Train("bookings", workers=Workers(each=4), member_ttl=2.0, visibility=2.0, grace=1.0)


@bookings.on("bookings")
@in_transaction(os.environ.get("BOOKINGS", "bookings.db"))
def book(payload: str, db: sqlite3.Connection) -> None:
    """Book it, and take a while."""
    db.execute("INSERT INTO booked VALUES (?)", (payload,))
    time.sleep(0.005)
