"""No module imports itself over others, in the package or in the tests' helpers. import-linter holds the layers."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

import grimp
import pytest


@pytest.mark.parametrize("package", ["eventwagon", "tests"])
def test_imports_go_round_in_no_circle(package: str) -> None:
    graph = grimp.build_graph(package, cache_dir=None)
    arrows = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(arrows) > 100
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as e:
        pytest.fail(" -> ".join(e.args[1]))
