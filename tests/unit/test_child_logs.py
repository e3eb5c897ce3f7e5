"""What is shown of the log of a process that has ended."""

from __future__ import annotations

from pathlib import Path

from eventwagon.orchestrators.processes.logs import last_lines

DUMP = """it begins
Fatal Python error: Segmentation fault

Thread 0x00007f92f8a3b6c0 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 982 in run

Current thread 0x00007f92fa5dab80 (most recent call first):
  File "/app/orders.py", line 6 in handle
  File "/app/a.py", line 1 in b
  File "/app/c.py", line 1 in d
  File "/app/e.py", line 1 in f
  File "<frozen runpy>", line 198 in _run_module_as_main

Extension modules: msgspec._core, apsw (total: 2)
"""


def test_of_a_dump_of_all_threads_the_beginning_is_shown(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text(DUMP)
    shown = 'File "/app/orders.py", line 6 in handle / File "/app/a.py", line 1 in b / File "/app/c.py", line 1 in d'
    assert last_lines(log) == f"Fatal Python error: Segmentation fault / {shown}"


def test_a_dump_of_an_earlier_process_is_not_what_ended_this_one(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text(DUMP + "ValueError: no such setting\n")
    assert last_lines(log, since=len(DUMP)) == "ValueError: no such setting"
    assert last_lines(log, since=10**6).endswith("no such setting")  # a new log was begun
