"""For one class: how many accelerators, which batch sizes and which rows of a chain can be part of the best allocation.

`contenders` uses this to narrow the mixed-integer program before it is solved. For every pair (n light, m heavy
accelerators) there is an upper bound of what an allocation can be worth. It takes the best batch size for every limit
separately, and pays for starts and accelerators:

    bound(n, m) = min over dual vertices π of  π·(1, light(n), heavy(m), direct(m)) - starts - accelerators

Few pairs have a bound close to the best allocation found so far. For these, every choice of batch sizes is worked out
exactly. The narrowed program holds only what is left, and has the same best answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from .mixtures import NOTHING
from .problem import CascadeProblem, PoolKey, PoolSize
from .stages import Column, Role, Stages

MOST_CHOICES = 2000
"""With more choices of replicas and batch sizes than this, they are left to the program."""
BLOCK = 1 << 16
"""Pairs that are bounded at a time, to limit memory: each is multiplied by hundreds of dual vertices."""
MOST_ALONE = 6
"""Up to this many choices become candidates of their own; the program's relaxation is then usually integer."""
MOST_MIXED = 16
"""With more choices than this, every row stays in the program."""

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int_]


@dataclass(frozen=True)
class Dues:
    """What an allocation pays, in normalised quality, besides the price of switches.

    It pays for each ``replica``, for each start while nothing runs (``first_start``), and for each ``doubling`` of a
    batch. ``kept`` is the reward for a running replica that is kept and costs nothing.
    """

    replica: float
    first_start: float
    doubling: float
    kept: float

    def most(self, *, replicas: int, batch: int) -> float:
        """The most that an allocation can pay and be rewarded in all."""
        return (self.replica + self.first_start + self.kept + self.doubling * math.log2(batch)) * replicas


@dataclass(frozen=True)
class Narrowed:
    """The part of a chain that can be the best: fewest and most replicas by stage, columns, and rows by number."""

    lights: tuple[int, int]
    heavies: tuple[int, int]
    columns: tuple[Column, ...]
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Cells:
    """Pairs of numbers of light and heavy replicas, and the most that each pair is worth; all of shape (pairs,)."""

    lights: Integers
    heavies: Integers
    worth: Floats

    def at_least(self, worth: float) -> Cells:
        return self.of(np.flatnonzero(self.worth >= worth))

    def highest(self, number: int) -> Cells:
        """The ``number`` pairs with the highest bounds."""
        return self.of(np.argsort(-self.worth, kind="stable")[:number])

    def of(self, kept: npt.NDArray[np.intp]) -> Cells:
        return Cells(self.lights[kept], self.heavies[kept], self.worth[kept])


@dataclass(frozen=True)
class Choices:
    """All choices of a pair of replica numbers (``cell``) and a column of each stage (``light``, ``heavy``), by number.

    ``worth`` is what each choice is worth, and ``limits``, of shape (4, choices), what it carries per prompt. Choices
    that make no sense are worth -inf: replicas that carry nothing, or a second batch size for a stage without replicas.
    """

    cells: Cells
    cell: Integers
    light: Integers
    heavy: Integers
    worth: Floats
    limits: Floats


class Splits:
    """One chain on the accelerators of one class."""

    def __init__(self, cascade: CascadeProblem, stages: Stages, name: str, count: int, dues: Dues) -> None:
        self.stages = stages
        self._cascade = cascade
        self._name = name
        self._dues = dues
        variants = stages.chain.light, stages.chain.heavy
        self._keys: tuple[PoolKey, PoolKey] = (variants[0], name), (variants[1], name)
        self._running = [cascade.running.get(key, 0) for key in self._keys]
        first = not any(cascade.running.values())
        self._starts = [dues.first_start if first else cascade.switch_prices.get(key, 0.0) for key in self._keys]
        self._columns = [
            stages.pools(role).get(key, ()) for role, key in zip((Role.LIGHT, Role.HEAVY), self._keys, strict=True)
        ]
        self._busy = [cascade.light_utilisation, cascade.heavy_utilisation]
        demand = max(cascade.demand, NOTHING)
        self._most = [
            min(count, max((c.enough(demand, utilisation=busy) for c in columns), default=0))
            for columns, busy in zip(self._columns, self._busy, strict=True)
        ]
        self._count = min(count, sum(self._most))

    @cached_property
    def _loads(self) -> list[list[Floats]]:
        """What 0, 1, 2, … replicas carry per prompt, for each column.

        The three lists are for the light stage, for the heavy stage, and for direct prompts without a light stage.
        """
        light, heavy = self._columns
        return [
            [self._carried(0, column, column.reserve) for column in light],
            [self._carried(1, column, column.reserve) for column in heavy],
            [self._carried(1, column, column.direct_reserve) for column in heavy],
        ]

    def _carried(self, stage: int, column: Column, reserve: float) -> Floats:
        replicas = np.minimum(np.arange(self._count + 1), self._most[stage])
        rate = column.rate / max(self._cascade.demand, NOTHING)
        return np.asarray(rate * np.maximum(np.minimum(self._busy[stage] * replicas, replicas - reserve), 0.0))

    @cached_property
    def _best_loads(self) -> list[Floats]:
        """The maximum of `_loads` over the columns."""
        nothing = np.zeros(self._count + 1)
        return [np.maximum.reduce(loads) if loads else nothing for loads in self._loads]

    def bounds(self) -> Floats:
        """A coarse but quick bound of the chain's gain for each number of light accelerators; all others are heavy.

        Accelerators and batches cost nothing here. The bound is the better of two cases: no heavy replica is started,
        or some are and the price of one start is paid.
        """
        light, overall, firm = self._best_loads
        prices = self.stages.mixer.prices
        lights = np.arange(self._count + 1)
        heavies = self._count - lights

        def gained(heavies: Integers) -> Floats:
            direct = overall[heavies]
            direct[0] = firm[heavies[0]]  # there is no light stage that could make the image
            loads = prices[:, 1:2] * light + prices[:, 2:3] * overall[heavies] + prices[:, 3:4] * direct
            return np.asarray((prices[:, :1] + loads).min(axis=0))

        running, start = self._running, self._starts
        started = np.where(heavies > running[1], gained(heavies) - start[1], -np.inf)
        found = np.maximum(started, gained(np.minimum(heavies, running[1])))
        return found - start[0] * np.maximum(lights - running[0], 0)

    def cells(self, fewest: int, most: int) -> Cells:
        """All pairs with ``fewest`` to ``most`` light replicas, with their bounds as `Cells.worth`."""
        light, overall, firm = self._best_loads
        of_light, of_heavy = np.arange(fewest, min(most, self._most[0]) + 1), np.arange(self._most[1] + 1)
        lights, heavies = (number.ravel() for number in np.meshgrid(of_light, of_heavy, indexing="ij"))
        fits = lights + heavies <= self._count
        lights, heavies = lights[fits], heavies[fits]
        direct = np.where(lights > 0, overall[heavies], firm[heavies])
        limits = np.stack([np.ones(len(lights)), light[lights], overall[heavies], direct])
        prices = self.stages.mixer.prices
        blocks = (limits[:, at : at + BLOCK] for at in range(0, limits.shape[1], BLOCK))
        worth = np.concatenate([(prices @ block).min(axis=0, initial=np.inf) for block in blocks] or [np.zeros(0)])
        return Cells(lights, heavies, worth - self._paid(lights, heavies))

    def _paid(self, lights: Integers, heavies: Integers) -> Floats:
        starts = sum(
            price * np.maximum(number - running, 0)
            for price, number, running in zip(self._starts, (lights, heavies), self._running, strict=True)
        )
        return np.asarray(starts + self._dues.replica * (lights + heavies))

    def choices(self, cells: Cells) -> Choices | None:
        """Every choice of batch sizes for these cells, worked out exactly.

        None if there are more than `MOST_CHOICES`, or if a stage has no columns.
        """
        (lit, overall, firm), (light_columns, heavy_columns) = self._loads, self._columns
        number = len(cells.lights) * len(light_columns) * len(heavy_columns)
        if not 0 < number <= MOST_CHOICES:
            return None
        cell, light, heavy = (
            index.ravel()
            for index in np.indices((len(cells.lights), len(light_columns), len(heavy_columns)), dtype=np.intp)
        )
        lights, heavies = cells.lights[cell], cells.heavies[cell]
        carried = np.stack(lit)[light, lights]
        heavily = np.stack(overall)[heavy, heavies]
        direct = np.where(lights > 0, heavily, np.stack(firm)[heavy, heavies])
        limits = np.stack([np.ones(number), carried, heavily, direct])
        doublings = [np.array([math.log2(c.service.batch) for c in columns]) for columns in self._columns]
        worth = (self.stages.mixer.prices @ limits).min(axis=0) - self._paid(lights, heavies)
        worth -= self._dues.doubling * (doublings[0][light] * (lights > 0) + doublings[1][heavy] * (heavies > 0))
        real = np.where(lights > 0, carried > 0, light == 0) & np.where(heavies > 0, heavily > 0, heavy == 0)
        return Choices(cells, cell, light, heavy, np.where(real, worth, -np.inf), limits)

    def pools(self, choices: Choices, at: int) -> dict[PoolKey, PoolSize]:
        """The pools of a choice."""
        cell = choices.cell[at]
        numbers = int(choices.cells.lights[cell]), int(choices.cells.heavies[cell])
        columns = self._columns[0][choices.light[at]], self._columns[1][choices.heavy[at]]
        return {
            key: PoolSize(number, column.service.batch)
            for key, number, column in zip(self._keys, numbers, columns, strict=True)
            if number
        }

    def narrowed(self, cells: Cells, *, worth: float) -> list[Narrowed]:
        """The parts that are worth at least ``worth``: each choice alone if there are few, else one part for all."""
        cells = cells.at_least(worth)
        if not len(cells.lights):
            return []
        choices = self.choices(cells)
        if choices is None:
            return [self._narrowed(cells, self.stages.columns, range(len(self.stages.chain.rows)))]
        kept = np.flatnonzero(choices.worth >= worth)
        groups = [kept[at : at + 1] for at in range(len(kept))] if len(kept) <= MOST_ALONE else [kept]
        return [
            self._narrowed(
                cells.of(choices.cell[group]), self._used(choices, group), self._rows(choices.limits[:, group])
            )
            for group in groups
        ]

    def _used(self, choices: Choices, group: npt.NDArray[np.intp]) -> tuple[Column, ...]:
        """The columns of a group of choices."""
        return tuple(
            columns[number]
            for columns, numbers in zip(self._columns, (choices.light, choices.heavy), strict=True)
            for number in sorted(set(numbers[group].tolist()))
        )

    def _rows(self, limits: Floats) -> Sequence[int]:
        """The rows that the best mixtures use within these limits, of shape (4, choices)."""
        rows = range(len(self.stages.chain.rows))
        if limits.shape[1] > MOST_MIXED:
            return rows
        mixed: set[int] = set()
        for _, light, heavy, direct in limits.T.tolist():
            mixed.update(row for row, _ in self.stages.mixer.shares((light, heavy, direct))[0])
        return sorted(mixed)

    def _narrowed(self, cells: Cells, columns: tuple[Column, ...], rows: Sequence[int]) -> Narrowed:
        return Narrowed(
            (int(cells.lights.min()), int(cells.lights.max())),
            (int(cells.heavies.min()), int(cells.heavies.max())),
            columns,
            tuple(rows),
        )
