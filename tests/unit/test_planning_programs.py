"""What the solver must not change."""

from __future__ import annotations

import random
import signal
import threading

import pytest

from cascade_operator.planning.allocation.programs import LinearProgram


def test_a_ctrl_c_while_it_solves_is_not_swallowed() -> None:
    """Half a second's search for several sums at once, which nothing shortens."""
    rng = random.Random(1)
    program = LinearProgram(integer=True)
    variables = [program.variable(value=rng.random(), integer=True) for _ in range(60)]
    for _ in range(8):
        weights = [rng.randint(10, 1000) for _ in variables]
        program.equal(dict(zip(variables, weights, strict=True)), sum(weights) // 2)
    main = threading.main_thread().ident or 0
    key = threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGINT))

    def solve() -> None:
        key.start()
        program.solve(nodes=6000)
        key.join()

    with pytest.raises(KeyboardInterrupt):
        solve()
