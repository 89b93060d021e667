"""No module imports itself in a circle, not even through the front of its package, which layer contracts do not see."""

from __future__ import annotations

from graphlib import TopologicalSorter

import grimp


def test_no_modules_import_each_other() -> None:
    graph = grimp.build_graph(
        "cascade_api", "cascade_operator", "cascade_router", "cascade_profiler", "cascade_models", cache_dir=None
    )
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert sum(map(len, imports.values())) > len(imports)
    TopologicalSorter(imports).prepare()  # raises CycleError with the modules of a circle
