"""Linear and mixed-integer programs: a typed front of OR-Tools with fixed seed, one thread and a node limit.

The node limit is the deterministic limit; wall time is only a backstop against a solver that hangs, and a
result that any limit cut short says so (`Outcome.LIMITED`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from ortools.linear_solver import pywraplp

NODE_LIMIT = 20_000
BACKSTOP_S = 20.0

# These programs are small and their relaxation is tight: presolving, cuts and the search heuristics that solve
# programs of their own cost nine tenths of the time and find nothing (64 accelerators, 6 chains, 200 rows).
_LEAN = """\
presolving/maxrounds = 0
separating/maxrounds = 0
separating/maxroundsroot = 0
heuristics/alns/freq = -1
heuristics/crossover/freq = -1
heuristics/feaspump/freq = -1
heuristics/rens/freq = -1
heuristics/rins/freq = -1
"""


class Outcome(str, Enum):
    """How a solve ended."""

    OPTIMAL = "optimal"
    LIMITED = "limited"
    INFEASIBLE = "infeasible"


@dataclass(frozen=True)
class Answer:
    """Values of the variables in the order of their creation; empty unless something feasible was found."""

    outcome: Outcome
    objective: float
    values: tuple[float, ...]


class Program:
    """A program under construction; variables are numbers, the objective is maximised."""

    def __init__(self, *, integer: bool, seed: int = 0) -> None:
        self._integer = integer
        self._solver = pywraplp.Solver.CreateSolver("SCIP" if integer else "GLOP")
        if integer:
            self._solver.SetSolverSpecificParametersAsString(
                f"{_LEAN}limits/nodes = {NODE_LIMIT}\nrandomization/randomseedshift = {seed}\n"
            )
        self._variables: list[pywraplp.Variable] = []
        self._objective = self._solver.Objective()
        self._objective.SetMaximization()
        self._hint: dict[int, float] = {}

    def variable(self, *, value: float = 0.0, upper: float = 1.0, integer: bool = False) -> int:
        """A new variable in [0, upper] that adds ``value`` per unit to the objective."""
        make = self._solver.IntVar if integer else self._solver.NumVar
        variable = make(0.0, upper, "")
        if value:
            self._objective.SetCoefficient(variable, value)
        self._variables.append(variable)
        return len(self._variables) - 1

    def at_most(self, terms: Mapping[int, float], bound: float) -> None:
        """Σ terms ≤ bound."""
        self._constrain(-self._solver.infinity(), bound, terms)

    def at_least(self, terms: Mapping[int, float], bound: float) -> None:
        """Σ terms ≥ bound."""
        self._constrain(bound, self._solver.infinity(), terms)

    def equal(self, terms: Mapping[int, float], bound: float) -> None:
        """Σ terms = bound."""
        self._constrain(bound, bound, terms)

    def hint(self, variable: int, value: float) -> None:
        """Start the search near a known solution."""
        self._hint[variable] = value

    def solve(self) -> Answer:
        """Solve to optimality, or to the limits."""
        self._solver.SetTimeLimit(int(BACKSTOP_S * 1000))
        if self._integer and self._hint:
            self._solver.SetHint([self._variables[v] for v in self._hint], list(self._hint.values()))
        parameters = pywraplp.MPSolverParameters()
        parameters.SetDoubleParam(pywraplp.MPSolverParameters.RELATIVE_MIP_GAP, 0.0)
        status = self._solver.Solve(parameters)
        if status not in (pywraplp.Solver.OPTIMAL, pywraplp.Solver.FEASIBLE):
            limited = status == pywraplp.Solver.NOT_SOLVED
            return Answer(Outcome.LIMITED if limited else Outcome.INFEASIBLE, 0.0, ())
        outcome = Outcome.OPTIMAL if status == pywraplp.Solver.OPTIMAL else Outcome.LIMITED
        values = tuple(variable.solution_value() for variable in self._variables)
        return Answer(outcome, self._objective.Value(), values)

    def _constrain(self, lower: float, upper: float, terms: Mapping[int, float]) -> None:
        constraint = self._solver.Constraint(lower, upper)
        for variable, factor in terms.items():
            constraint.SetCoefficient(self._variables[variable], factor)
