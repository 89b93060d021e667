"""Linear and mixed-integer programs: a typed interface to OR-Tools with a fixed seed, one thread and a node limit.

A program maximises Σ value·x over variables 0 ≤ x ≤ upper, some of them integers, subject to linear constraints. GLOP
solves linear programs and SCIP those with integers. The node limit makes the result the same on every machine; the time
limit only ends a solver that hangs. If a limit cut the search short, the result says so (`SolveStatus.LIMITED`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from ortools.linear_solver import linear_solver_pb2, pywraplp

NODE_LIMIT = 20_000
BACKSTOP_S = 20.0
_WHOLE = 1e-7
"""A value this close to an integer counts as one."""

# A program of one cascade is small and its relaxation is tight: preparing the search (presolving, cuts, heuristics)
# takes nine tenths of the time and finds nothing. Strong branching on a few promising variables is worth its time.
_NO_HEURISTICS = """\
adaptivediving alns clique coefdiving completesol conflictdiving crossover distributiondiving farkasdiving feaspump
fracdiving gins guideddiving linesearchdiving locks lpface objpscostdiving pscostdiving rens rins rootsoldiving
shiftandpropagate trivial vbounds veclendiving zeroobj"""
_LEAN = """\
presolving/maxrounds = 0
presolving/maxrestarts = 0
separating/maxrounds = 0
separating/maxroundsroot = 0
propagating/maxrounds = 0
propagating/maxroundsroot = 0
conflict/enable = FALSE
branching/relpscost/initcand = 4
branching/relpscost/inititer = 5
""" + "".join(f"heuristics/{name}/freq = -1\n" for name in _NO_HEURISTICS.split())


class SolveStatus(str, Enum):
    """How a solve ended."""

    OPTIMAL = "optimal"
    LIMITED = "limited"
    INFEASIBLE = "infeasible"


@dataclass(frozen=True)
class Solution:
    """The values of the variables in the order of their creation; empty if no feasible solution was found.

    No feasible solution has an objective above ``bound``.
    """

    status: SolveStatus
    objective: float
    bound: float
    values: tuple[float, ...]


class LinearProgram:
    """A program under construction. Variables are identified by number, and the objective is maximised."""

    def __init__(self, *, integer: bool, seed: int = 0) -> None:
        self._integer = integer
        self._seed = seed
        self._model = linear_solver_pb2.MPModelProto(maximize=True)
        self._variables = 0

    def variable(self, *, value: float = 0.0, upper: float = 1.0, integer: bool = False) -> int:
        """The number of a new variable in [0, upper] that adds ``value`` per unit to the objective."""
        self._model.variable.add(lower_bound=0.0, upper_bound=upper, objective_coefficient=value, is_integer=integer)
        self._variables += 1
        return self._variables - 1

    def at_most(self, terms: Mapping[int, float], bound: float) -> None:
        """Σ terms ≤ bound."""
        self._constrain(-float("inf"), bound, terms)

    def at_least(self, terms: Mapping[int, float], bound: float) -> None:
        """Σ terms ≥ bound."""
        self._constrain(bound, float("inf"), terms)

    def equal(self, terms: Mapping[int, float], bound: float) -> None:
        """Σ terms = bound."""
        self._constrain(bound, bound, terms)

    def hint(self, variable: int, value: float) -> None:
        """Let the search start near a known solution, in which ``variable`` has this ``value``."""
        self._model.solution_hint.var_index.append(variable)
        self._model.solution_hint.var_value.append(value)

    def solve(self, *, gap: float = 0.0, nodes: int = NODE_LIMIT) -> Solution:
        """Solve until the objective is within ``gap`` (relative) of the bound, or until a limit is reached.

        With integers, ask for an exact answer (``gap`` 0) only in small programs; large ones need a gap and fewer
        ``nodes``.
        """
        if self._integer and not gap:
            relaxed = self._relaxed()
            if relaxed is not None:
                return relaxed
        solver = pywraplp.Solver.CreateSolver("SCIP" if self._integer else "GLOP")
        solver.LoadModelFromProto(self._model)
        solver.SetTimeLimit(int(BACKSTOP_S * 1000))
        if self._integer:
            limits = f"limits/nodes = {nodes}\n"
            limits += f"randomization/randomseedshift = {self._seed}\n"
            # SCIP's own signal handler would swallow a Ctrl-C that comes while it solves.
            limits += "misc/catchctrlc = FALSE\n"
            solver.SetSolverSpecificParametersAsString(limits if gap else _LEAN + limits)
        parameters = pywraplp.MPSolverParameters()
        parameters.SetDoubleParam(pywraplp.MPSolverParameters.RELATIVE_MIP_GAP, gap)
        # Unlike OR-Tools' call that solves a model message directly, this one lets other threads run.
        ended = solver.Solve(parameters)
        if ended not in (pywraplp.Solver.OPTIMAL, pywraplp.Solver.FEASIBLE):
            limited = ended == pywraplp.Solver.NOT_SOLVED
            return Solution(SolveStatus.LIMITED if limited else SolveStatus.INFEASIBLE, 0.0, 0.0, ())
        status = SolveStatus.OPTIMAL if ended == pywraplp.Solver.OPTIMAL else SolveStatus.LIMITED
        response = linear_solver_pb2.MPSolutionResponse()
        solver.FillSolutionResponseProto(response)
        objective = solver.Objective()
        bound = objective.BestBound() if self._integer else objective.Value()
        return Solution(status, objective.Value(), bound, tuple(response.variable_value))

    def _relaxed(self) -> Solution | None:
        """The solution without the integrality constraints, if it happens to be integer: then none is better."""
        program = LinearProgram(integer=False)
        program._model.CopyFrom(self._model)
        program._model.ClearField("solution_hint")
        for variable in program._model.variable:
            variable.is_integer = False
        solution = program.solve()
        whole = all(
            not variable.is_integer or abs(value - round(value)) < _WHOLE
            for variable, value in zip(self._model.variable, solution.values, strict=False)
        )
        return solution if solution.status is SolveStatus.OPTIMAL and whole else None

    def _constrain(self, lower: float, upper: float, terms: Mapping[int, float]) -> None:
        self._model.constraint.add(
            lower_bound=lower, upper_bound=upper, var_index=terms.keys(), coefficient=terms.values()
        )


def up_to_floor(program: LinearProgram, gains: Mapping[int, float], *, floor: float, weight: float) -> None:
    """Let the shares of rows, each with its gain, be worth their mean quality up to a ``floor``, and nothing beyond.

    It adds a variable c with c ≤ floor and c ≤ Σ gain·share, and maximises weight·c.
    """
    counted = program.variable(value=weight, upper=max(floor, 0.0))
    program.at_most({counted: 1.0, **{share: -gain for share, gain in gains.items()}}, 0.0)
