"""The operator's own secret is made once, and read by every operator that comes later."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from cascade_operator.clusters import ClusterFailed
from cascade_operator.clusters.kubernetes.api import CONFLICT, ApiRefused
from cascade_operator.clusters.kubernetes.keys import own_secret

PLACE = ("system", "agents")


class Api:
    """The API server as far as one Secret goes, with its rule for versions."""

    def __init__(self, there: dict[str, Any] | None) -> None:
        self.there = there
        self.patches = 0
        self.overtaken = False
        """Whether another operator fills the Secret just before the next patch."""

    async def get(self, resource: object, namespace: str, name: str) -> dict[str, Any] | None:
        return copy.deepcopy(self.there)

    async def merge(self, resource: object, namespace: str, name: str, patch: dict[str, Any]) -> dict[str, Any]:
        assert self.there is not None
        if self.overtaken:
            self.overtaken = False
            await self.merge(resource, namespace, name, {**patch, "data": {"secret": "b3RoZXI="}})
        if patch["metadata"]["resourceVersion"] != self.there["metadata"]["resourceVersion"]:
            raise ApiRefused(CONFLICT, "it was changed")
        self.patches += 1
        self.there = {"metadata": {"resourceVersion": str(self.patches + 1)}, "data": dict(patch["data"])}
        return self.there


def empty() -> dict[str, Any]:
    return {"metadata": {"resourceVersion": "1"}}


async def test_an_empty_one_is_filled_once() -> None:
    api = Api(empty())
    first = await own_secret(api, *PLACE)  # type: ignore[arg-type]
    assert len(first) >= 32
    assert await own_secret(api, *PLACE) == first  # type: ignore[arg-type]
    assert api.patches == 1
    assert await own_secret(Api(empty()), *PLACE) != first  # type: ignore[arg-type]


async def test_of_two_operators_the_second_takes_what_the_first_has_made() -> None:
    api = Api(empty())
    api.overtaken = True
    assert await own_secret(api, *PLACE) == "other"  # type: ignore[arg-type]


async def test_without_one_it_is_said_what_to_make() -> None:
    with pytest.raises(ClusterFailed, match="no Secret system/agents"):
        await own_secret(Api(None), *PLACE)  # type: ignore[arg-type]
