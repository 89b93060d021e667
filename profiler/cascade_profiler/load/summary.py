"""The result of a run, as data and as text. Pure."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict
from typing import Any, Final

from cascade_api.quantiles import nearest_rank

from .ledger import Ledger, OutcomeKind
from .verdicts import Quality

NOTABLE_DELAY: Final = 0.02
"""Share of the deadline; if this command sends requests later than that, its figures are about itself, too."""


def as_data(ledger: Ledger, *, rate: float, duration_s: float, quality: Quality | None) -> dict[str, Any]:
    """The whole result, for ``--json``; times are in seconds."""
    latencies = ledger.latencies_s
    return {
        "rate": rate,
        "durationSeconds": duration_s,
        "deadlineSeconds": ledger.deadline_s,
        "sent": len(ledger.sent),
        "unsent": ledger.unsent,
        "answered": ledger.count(OutcomeKind.ANSWERED),
        "refused": dict(ledger.refusals),
        "lost": ledger.count(OutcomeKind.LOST),
        "retried": ledger.retried,
        "silent": ledger.count(OutcomeKind.SILENT) + ledger.in_flight,
        "answeredTwice": ledger.answered_twice,
        "balanced": ledger.balanced,
        "violations": ledger.violations,
        "latency": {f"p{share}": nearest_rank(latencies, share / 100) for share in (50, 95, 99)},
        "sentBehindP99": nearest_rank(sorted(ledger.sent.values()), 0.99),
        "routes": dict(ledger.routes),
        "shares": {"planned": ledger.planned_shares, "realised": ledger.realised_shares},
        "quality": asdict(quality) if quality else None,
        "details": dict(Counter(_kind(o.detail) for o in ledger.outcomes.values() if o.detail).most_common(10)),
    }


def _kind(detail: str) -> str:
    """A message without its figures and ids, so that similar messages are counted together."""
    return re.sub(r"\b[0-9a-f]{32}\b|\d+(\.\d+)?", "…", detail)


def as_text(data: dict[str, Any]) -> str:
    """The result as text."""
    refused = sum(data["refused"].values())
    by_status = ", ".join(f"{count} {status}" for status, count in sorted(data["refused"].items()))
    identity = "" if data["balanced"] else f"  NOT BALANCED: {data['silent']} silent, {data['answeredTwice']} twice"
    lines = [
        f"sent {data['sent']} = answered {data['answered']} + refused {refused}"
        + (f" ({by_status})" if by_status else "")
        + f" + lost {data['lost']}{identity}",
    ]
    if data["retried"]:
        lines.append(f"{data['retried']} lost their connection and were sent again with the same id")
    if data["unsent"]:
        lines.append(f"{data['unsent']} more arrived while too many were in flight, and were not sent")
    latency = data["latency"]
    if data["answered"]:
        lines.append("latency " + ", ".join(f"{name} {value:.3f} s" for name, value in latency.items()))
    behind_s = data["sentBehindP99"]
    if behind_s is not None and behind_s > NOTABLE_DELAY * data["deadlineSeconds"]:
        lines.append(
            f"this command was late itself: at the p99 it sent requests {behind_s:.3f} s after they arrived, which the "
            "latency contains: lower the rate, or run it on another machine"
        )
    share = data["violations"] / data["sent"] if data["sent"] else 0.0
    lines.append(f"violations {data['violations']} ({share:.2%}) of the {data['deadlineSeconds']:g} s deadline")
    planned, realised = data["shares"]["planned"], data["shares"]["realised"]
    for route, value in realised.items():
        plan = f"{planned[route]:.1%}" if route in planned else "unknown"
        lines.append(f"  {route:<10} planned {plan:>7}  realised {value:.1%}")
    if data["routes"].get("degraded"):
        lines.append(f"  of the light answers, {data['routes']['degraded']} were degraded for lack of time")
    quality = data["quality"]
    if quality:
        scores = ", ".join(
            f"{name} {quality[name]['mean']:.3f} ± {quality[name]['half_width']:.3f}" for name in ("q2", "strict")
        )
        lines.append(f"{scores} on {quality['images']} images")
    if data["details"] and data["answered"] < data["sent"]:
        lines += [f"  {count} × {detail}" for detail, count in data["details"].items()]
    return "\n".join(lines)


def progress_line(ledger: Ledger, elapsed_s: float) -> str:
    """One line about the state of a run that is still going on."""
    refused, lost = ledger.count(OutcomeKind.REFUSED), ledger.count(OutcomeKind.LOST)
    p99 = nearest_rank(ledger.latencies_s, 0.99)
    latency = "" if p99 is None else f", p99 {p99:.2f} s"
    return (
        f"{elapsed_s:5.0f} s  sent {len(ledger.sent)}, answered {ledger.count(OutcomeKind.ANSWERED)}, "
        f"in flight {ledger.in_flight}, refused {refused}, lost {lost}{latency}"
    )
