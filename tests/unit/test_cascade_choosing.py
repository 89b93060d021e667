"""Rows, direct prompts and escalations of one cascade, from shares and what the router has seen."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from cascade_api.plan import Plan
from cascade_router.cascade.choosing import CONFIDENCE_CUTS, Chooser, Wish, why_no_variant
from cascade_router.prompts.scorers import make_scorer
from support.router import EASY, HARD, make_plan

PROMPTS = [EASY, "a small red circle", "a large red circle above a large blue cross", HARD]


def plan_of(*rows: tuple[float, float, float], **changes: Any) -> Plan:
    """A plan of rows (share, direct, escalation)."""
    plan = make_plan({"shapes-light": ["h:1"], "shapes-heavy": ["h:2"]}, **changes)
    made = [
        plan.rows[0].model_copy(update={"share": share, "direct": direct, "escalation": escalation})
        for share, direct, escalation in rows
    ]
    return plan.model_copy(update={"rows": made})


def test_a_fresh_router_sends_the_hard_prompt_direct_and_the_easy_one_light() -> None:
    chooser = Chooser(scorer=make_scorer("rules"))
    for seeds in (None, {"hardness": 2.9, "confidence": 0.4}):
        plan = make_plan({"shapes-light": [], "shapes-heavy": []}, direct=0.4, seed_thresholds=seeds)
        assert not chooser.choose(plan, EASY, coin=0.5).direct
        assert chooser.choose(plan, HARD, coin=0.5).direct


def test_realised_shares_follow_a_mixture_of_rows() -> None:
    plan = plan_of((0.7, 0.2, 0.1), (0.3, 0.6, 0.5))
    chooser, rng = Chooser(scorer=make_scorer("rules")), random.Random(3)
    routes = Counter[str]()
    for _ in range(3000):
        choice = chooser.choose(plan, rng.choice(PROMPTS), coin=rng.random())
        if choice.direct:
            routes["direct"] += 1
        else:
            routes["escalated" if chooser.escalates(choice.row, rng.random()) else "light"] += 1
    for route, share in plan.planned_shares.items():
        assert routes[route] / 3000 == pytest.approx(share, abs=0.02)


def test_the_least_sure_images_are_escalated() -> None:
    plan, chooser, rng = plan_of((1, 0, 0.3)), Chooser(scorer=make_scorer("rules")), random.Random(4)
    sure, unsure = Counter[bool](), Counter[bool]()
    for _ in range(1000):
        confidence = rng.random()
        outcome = chooser.escalates(plan.rows[0], confidence)
        if confidence < 0.2:
            unsure[outcome] += 1
        elif confidence > 0.4:
            sure[outcome] += 1
    assert unsure[True] > 0.95 * unsure.total()
    assert sure[False] > 0.95 * sure.total()


def test_a_new_row_begins_with_what_the_nearest_one_has_seen() -> None:
    chooser = Chooser(scorer=make_scorer("rules"))
    known = plan_of((1, 0.2, 0.5)).rows[0]
    for index in range(300):
        chooser.escalates(known, 0.8 + 0.1 * (index % 10) / 10)
    # Confidences of this model lie above .8: at .85 the new row accepts none, which a fresh cut at .5 would do.
    new = plan_of((1, 0.3, 0.9)).rows[0]
    assert all(chooser.escalates(new, 0.8) for _ in range(20))


def test_memory_of_rows_is_bounded_and_reports_have_the_latest() -> None:
    chooser = Chooser(scorer=make_scorer("rules"))
    for index in range(3 * CONFIDENCE_CUTS):
        chooser.escalates(plan_of((1, index / 100, 0.5)).rows[0], index / 100)
    assert chooser.confidence_quantiles(21) == {}  # a few images say nothing
    for index in range(60):
        chooser.escalates(plan_of((1, 0.5, 0.5)).rows[0], index / 100)
    quantiles = chooser.confidence_quantiles(21)
    assert list(quantiles) == ["shapes-light"]
    assert quantiles["shapes-light"] == sorted(quantiles["shapes-light"])
    assert len(chooser._confidence) == CONFIDENCE_CUTS


def test_a_few_prompts_say_nothing_of_the_hardness_to_come() -> None:
    chooser = Chooser(scorer=make_scorer("rules"))
    plan = plan_of((1, 0.5, 0))
    for count in range(60):
        assert (chooser.hardness_quantiles(21) == []) == (count < 50)
        chooser.choose(plan, HARD, coin=0.1)


def test_another_scorer_starts_afresh() -> None:
    chooser = Chooser(scorer=make_scorer("rules"))
    plan = plan_of((1, 0.5, 0))
    for _ in range(10):
        chooser.choose(plan, HARD, coin=0.1)
    chooser.use_scorer(make_scorer("coin-flip"))
    assert chooser.hardness_quantiles(3) == []
    assert chooser.choose(plan, EASY, coin=0.9).direct
    assert not chooser.choose(plan, HARD, coin=0.1).direct


LOW, HIGH = Wish("low"), Wish("high")


def test_a_tier_takes_its_own_row_of_the_plan_and_the_others_keep_the_planned_shares() -> None:
    plan, chooser, rng = plan_of((1, 0.2, 0.25)), Chooser(scorer=make_scorer("rules")), random.Random(5)
    heavy = others = 0
    for index in range(4000):
        wish = HIGH if index % 10 == 0 else LOW if index % 10 == 5 else Wish()
        choice = chooser.choose(plan, rng.choice(PROMPTS), coin=rng.random(), wish=wish)
        escalated = not choice.direct and chooser.escalates(choice.row, rng.random())
        if wish.tier != "auto":
            assert choice.row == plan.tiers[wish.tier]
            assert (choice.direct, escalated) == (wish == HIGH, False)
        else:
            others += 1
            heavy += choice.direct or escalated
    assert heavy / others == pytest.approx(plan.rows[0].heavy_share, abs=0.02)


def test_where_no_worker_serves_the_tier_the_plan_decides() -> None:
    plan, chooser = (
        make_plan({"shapes-light": ["h:1"], "shapes-heavy": []}, direct=0, escalation=0),
        Chooser(scorer=make_scorer("rules")),
    )
    assert not chooser.choose(plan, EASY, coin=0.5, wish=HIGH).direct
    alone = make_plan({"shapes-heavy": ["h:1"]}, chain=["shapes-heavy"], direct=1, escalation=0)
    for wish in (LOW, HIGH):
        assert chooser.choose(alone, EASY, coin=0.5, wish=wish).direct


def test_settings_name_the_variant_and_no_other_will_do() -> None:
    plan, chooser = make_plan({"shapes-light": ["h:1"], "shapes-heavy": ["h:2"]}), Chooser(scorer=make_scorer("rules"))
    for name, variant in plan.variants.items():
        choice = chooser.choose(plan, EASY, coin=0.5, wish=Wish(steps=variant.settings.steps))
        assert (choice.row.chain, choice.direct) == ((name,), True)
    gone = chooser.choose(plan, EASY, coin=0.5, wish=Wish(steps=5))
    assert not set(gone.row.chain) & set(plan.variants)


def test_a_refusal_of_settings_names_those_that_there_are() -> None:
    plan = make_plan({"shapes-light": ["h:1"], "shapes-heavy": ["h:2"]})
    changed = plan.variants["shapes-heavy"].settings.model_copy(update={"steps": 24, "guidance": "3.0"})
    heavy = plan.variants["shapes-heavy"].model_copy(update={"settings": changed})
    plan = plan.model_copy(update={"variants": {**plan.variants, "shapes-heavy": heavy}})
    assert why_no_variant(plan, Wish("high")) is None
    assert why_no_variant(plan, Wish(steps=24, guidance=3.0)) is None
    assert why_no_variant(plan, Wish(steps=5)) == ("steps", "5 is not what any variant takes; they take 2, 24")
    assert why_no_variant(plan, Wish(guidance=4.5)) == (
        "guidance",
        "4.5 is not what any variant has; leave it out or use 3.0",
    )
    assert why_no_variant(plan, Wish(steps=2, guidance=3.0)) == (
        "guidance",
        "3 is not what any variant with 2 steps has; leave it out",
    )


def with_adapters(**names: list[str]) -> Plan:
    """A plan of two variants and a third in no row, with adapters by the last part of the variant's name."""
    plan = make_plan(
        {"shapes-light": ["h:1"], "shapes-heavy": ["h:2"], "shapes-slow": ["h:3"]},
        execution_s={"shapes-light": 0.01, "shapes-heavy": 0.1, "shapes-slow": 0.2}, direct=0, escalation=0.5,
    )  # fmt: skip
    variants = {
        name: variant.model_copy(update={"adapters": {a: f"{name}/{a}" for a in names.get(name.partition("-")[2], [])}})
        for name, variant in plan.variants.items()
    }
    return plan.model_copy(update={"variants": variants})


@pytest.mark.parametrize(
    ("have", "chain"),
    [
        ({"light": ["ink"], "heavy": ["ink", "oil"]}, ("shapes-light", "shapes-heavy")),
        ({"light": ["ink"], "heavy": ["oil"]}, ("shapes-light",)),
        ({"light": ["oil"], "heavy": ["ink"]}, ("shapes-heavy",)),
        ({"slow": ["ink"]}, ("shapes-slow",)),
    ],
)
def test_an_image_with_an_adapter_is_made_by_variants_that_have_it_alone(
    have: dict[str, list[str]], chain: tuple[str, ...]
) -> None:
    plan, chooser = with_adapters(**have), Chooser(scorer=make_scorer("rules"))
    assert why_no_variant(plan, Wish(lora="ink")) is None
    choice = chooser.choose(plan, EASY, coin=0.5, wish=Wish(lora="ink"))
    assert (choice.row.chain, choice.direct) == (chain, len(chain) == 1)
    assert chooser.choose(plan, EASY, coin=0.5).row == plan.rows[0], "others are served as ever"


def test_tier_and_adapter_go_together_where_the_tiers_variant_has_the_adapter() -> None:
    chooser = Chooser(scorer=make_scorer("rules"))
    both, one = with_adapters(light=["ink"], heavy=["ink"]), with_adapters(heavy=["ink"])
    low = chooser.choose(both, EASY, coin=0.5, wish=Wish("low", lora="ink"))
    assert (low.row, low.direct) == (both.tiers["low"], False)
    assert chooser.choose(one, EASY, coin=0.5, wish=Wish("low", lora="ink")).row.chain == ("shapes-heavy",)


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (Wish(lora="pen"), "'pen' is not an adapter of any variant; use ink, oil"),
        (
            Wish(steps=2, lora="oil"),
            "'oil' is not an adapter of the variant with these settings; leave one of both out",
        ),
    ],
)
def test_a_refusal_of_an_adapter_names_those_that_there_are(wish: Wish, said: str) -> None:
    plan = with_adapters(light=["ink"], heavy=["ink", "oil"])
    assert why_no_variant(plan, wish) == ("lora", said)


def test_where_there_are_no_adapters_the_refusal_says_so() -> None:
    plan = make_plan({"shapes-light": ["h:1"], "shapes-heavy": ["h:2"]})
    assert why_no_variant(plan, Wish(lora="ink")) == ("lora", "'ink' is not an adapter of any variant; leave it out")


@pytest.mark.parametrize(
    ("able", "chain", "direct"),
    [
        (("shapes-light", "shapes-heavy"), ("shapes-light", "shapes-heavy"), False),
        (("shapes-heavy",), ("shapes-heavy",), True),
    ],
)
def test_an_image_is_given_only_to_variants_that_edit(
    able: tuple[str, ...], chain: tuple[str, ...], direct: bool
) -> None:
    plan, wish = plan_of((1, 0, 0.3), edits=able), Wish(tier="low", edits=True)
    choice = Chooser(scorer=make_scorer("rules")).choose(plan, EASY, coin=0.5, wish=wish)
    assert (tuple(choice.row.chain), choice.direct) == (chain, direct)
    assert why_no_variant(plan, wish) is None


def test_an_image_for_a_plan_without_variants_that_edit_is_refused_by_name() -> None:
    assert (why_no_variant(plan_of((1, 0, 0.3)), Wish(edits=True)) or ("",))[0] == "image"
    heavy = plan_of((1, 0, 0.3), edits=("shapes-heavy",))
    assert (why_no_variant(heavy, Wish(steps=2, edits=True)) or ("",))[0] == "image"
