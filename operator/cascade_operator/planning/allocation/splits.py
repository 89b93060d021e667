"""With one class: how many accelerators, which batches and which rows of a chain can belong to the best allocation.

Every number of light and heavy accelerators has a bound: what the better of the batches carries, mixed by the dual
vertices of the chain, with starts and accelerators paid for. Only batches are then left open, and few numbers are
within their price of the best; those are worked out exactly. A program that holds only these has the same best answer.
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
"""Beyond so many choices of replicas and batches the program sees to them."""
BLOCK = 1 << 16
"""So many pairs are bounded at a time: by every dual vertex of a chain, of which there are hundreds."""
MOST_ALONE = 6
"""Up to so many choices are told apart in the program, whose relaxation then is whole as a rule."""
MOST_MIXED = 16
"""Beyond so many every row is left in the program."""

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int_]


@dataclass(frozen=True)
class Dues:
    """What an allocation pays, in normalised quality, beside the price of switches.

    For each ``replica``, for the ``first_start`` of one where nothing runs, for each ``doubling`` of a batch; ``kept``
    is the reward of a replica that stays for nothing.
    """

    replica: float
    first_start: float
    doubling: float
    kept: float

    def most(self, *, replicas: int, batch: int) -> float:
        """The most that an allocation can pay or be rewarded."""
        return (self.replica + self.first_start + self.kept + self.doubling * math.log2(batch)) * replicas


@dataclass(frozen=True)
class Narrowed:
    """What can be best of a chain: fewest and most replicas by stage, the columns, and the rows by number."""

    lights: tuple[int, int]
    heavies: tuple[int, int]
    columns: tuple[Column, ...]
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Cells:
    """Numbers of light and heavy replicas, and the most that each pair is worth."""

    lights: Integers
    heavies: Integers
    worth: Floats

    def at_least(self, worth: float) -> Cells:
        return self.of(np.flatnonzero(self.worth >= worth))

    def highest(self, number: int) -> Cells:
        """So many of those that are bounded highest."""
        return self.of(np.argsort(-self.worth, kind="stable")[:number])

    def of(self, kept: npt.NDArray[np.intp]) -> Cells:
        return Cells(self.lights[kept], self.heavies[kept], self.worth[kept])


@dataclass(frozen=True)
class Choices:
    """Replicas and column (by number in its stage) of both stages, what each is worth, and what they carry per prompt.

    What is no choice is worth -inf: replicas that carry nothing, batches of none.
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
        """What 0, 1, 2, … replicas carry per prompt, by column of the light stage, of the heavy one, of that direct."""
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
        """The most of the columns."""
        nothing = np.zeros(self._count + 1)
        return [np.maximum.reduce(loads) if loads else nothing for loads in self._loads]

    def bounds(self) -> Floats:
        """The most that the chain gains by how many accelerators are light, all others being heavy: coarse, but quick.

        Accelerators and batches are for nothing. Either no heavy replica is started, or at least one is paid for.
        """
        light, overall, firm = self._best_loads
        prices = self.stages.mixer.prices
        lights = np.arange(self._count + 1)
        heavies = self._count - lights

        def gained(heavies: Integers) -> Floats:
            direct = overall[heavies]
            direct[0] = firm[heavies[0]]  # without a light stage to stand in
            loads = prices[:, 1:2] * light + prices[:, 2:3] * overall[heavies] + prices[:, 3:4] * direct
            return np.asarray((prices[:, :1] + loads).min(axis=0))

        running, start = self._running, self._starts
        started = np.where(heavies > running[1], gained(heavies) - start[1], -np.inf)
        found = np.maximum(started, gained(np.minimum(heavies, running[1])))
        return found - start[0] * np.maximum(lights - running[0], 0)

    def cells(self, fewest: int, most: int) -> Cells:
        """Every number of replicas, with so many light ones; worth no more than its bound."""
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
        """The cells with each choice of batches, worked out; None for too many, or where a stage has no columns."""
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
        """What is worth at least so much: each choice alone where they are few, else all together."""
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
        """The columns of some choices."""
        return tuple(
            columns[number]
            for columns, numbers in zip(self._columns, (choices.light, choices.heavy), strict=True)
            for number in sorted(set(numbers[group].tolist()))
        )

    def _rows(self, limits: Floats) -> Sequence[int]:
        """Rows that are mixed within each of the limits."""
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
