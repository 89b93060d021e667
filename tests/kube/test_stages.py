"""What `kubectl describe` says of a cascade, from its first second on: docs/stages.md shows it as it is printed here.

After a wanted change run with UPDATE_GOLDEN=1 and review the difference.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest
import yaml

from support.helm import ROOT
from support.kube_node import Release
from support.patience import patient_documents

pytestmark = pytest.mark.kube

PAGE = ROOT / "docs/stages.md"
BLOCK = "<!-- {} -->\n```\n{}```\n"
CASCADES = "/apis/diffusioncascade.io/v1alpha1/namespaces/{}/diffusioncascades/shapes"


class Stages:
    """A cascade whose conditions are read, and written to the page or compared with it."""

    def __init__(self, release: Release, namespace: str) -> None:
        self.release = release
        self.namespace = namespace
        self.ready: list[str] = []

    def apply(self, **spec: object) -> None:
        self.release.node.apply(yaml.safe_dump(self.documents(**spec)[0]), namespace=self.namespace)

    def documents(self, **spec: object) -> list[dict[str, object]]:
        """The cascade, and its profile."""
        sections = {"objective": {"latency": "12s"}, **spec}
        documents = patient_documents(light_ms=150, heavy_ms=600, **sections)  # type: ignore[arg-type]
        return sorted(documents, key=lambda document: document["kind"] != "DiffusionCascade")

    def show(self, name: str, kind: str, reason: str) -> None:
        """Wait until a condition has this reason, and what is printed is what the page shows; or write that.

        The page shows the conditions that are other than those of a cascade that is ready.
        """

        def look() -> bool:
            text = self.release.node.kubectl("describe", "dcas", "shapes", "--namespace", self.namespace)
            found = conditions(text)
            if not any(has(each, Type=kind, Reason=reason) for each in found):
                return False
            if name == "ready":
                if not all(has(each, Status="True") != in_order_if_false(each) for each in found):
                    return False
                self.ready = [masked(each) for each in found]
                shown = text[text.index("Status:\n") :].replace(self.namespace, "default")
            else:
                shown = "".join(each for each in found if masked(each) not in self.ready)
            if not os.environ.get("UPDATE_GOLDEN"):
                page = page_block(name)
                if name == "ready":
                    return masked("".join(conditions(page))) == "".join(self.ready)
                return masked(page) == masked(shown)
            if name != "starting" and any(has(each, Type="Progressing", Status="True") for each in found):
                return False
            block = BLOCK.format(name, page_block(name))
            PAGE.write_text(PAGE.read_text().replace(block, BLOCK.format(name, shown)))
            return True

        self.release.node.expect(look, what=f"{kind} to say {reason} as docs/stages.md shows it")


def has(condition: str, **fields: str) -> bool:
    """Whether the fields of a condition are printed with these values."""
    return all(re.search(rf"^ +{name}: +{value}$", condition, re.MULTILINE) for name, value in fields.items())


def in_order_if_false(condition: str) -> bool:
    return has(condition, Type="(Progressing|Paused)")


def page_block(name: str) -> str:
    (block,) = re.findall(BLOCK.format(name, "(.*?)"), PAGE.read_text(), re.DOTALL)
    return str(block)


def conditions(text: str) -> list[str]:
    """The lines of each condition in what is printed, or in a part of that."""
    return re.findall(r"^    Last Transition Time:.*\n(?:    (?!Last Transition)\S.*\n)*", text, re.MULTILINE)


def masked(text: str) -> str:
    """Without times and other figures, and without the names of pools that change within seconds."""
    return re.sub(r"[0-9]+", "#", re.sub(r"(shapes-\w+\.cpu(, )?)+", "POOLS", text))


@pytest.fixture
def stages(release: Release) -> Iterator[Stages]:
    namespace = release.node.make_namespace()
    yield Stages(release, namespace)
    release.node.remove_namespace(namespace)


def test_the_page_shows_what_is_printed(stages: Stages) -> None:
    node = stages.release.node
    stages.release.serve(stages.namespace, yaml.safe_dump_all(stages.documents()))
    stages.show("ready", "Ready", "AsPlanned")

    stages.apply(policy={"mode": "paused"})
    stages.show("paused", "Paused", "PausedByUser")

    stages.apply(policy={"mode": "auto", "scaleToZeroAfter": "10s"})
    stages.show("parked", "Ready", "Parked")

    node.kubectl("delete", "dcas", "shapes", "--namespace", stages.namespace)
    node.kubectl("delete", "cprof", "shapes", "--namespace", stages.namespace)
    stages.apply()
    stages.show("no profile", "Accepted", "ProfileMissing")

    node.kubectl("cordon", "node-1")
    try:
        node.apply(yaml.safe_dump(stages.documents()[1]), namespace=stages.namespace)
        stages.show("no accelerator", "Ready", "NoCapacity")
    finally:
        node.kubectl("uncordon", "node-1")
    stages.show("starting", "Ready", "ReplicasStarting")
    stages.release.wait_served(stages.namespace)

    profile = stages.documents()[1]
    rows: dict[str, list[dict[str, object]]] = profile["spec"]  # type: ignore[assignment]
    rows["execution"] = [row for row in rows["execution"] if row["variant"] != "shapes-heavy"]
    node.apply(yaml.safe_dump(profile), namespace=stages.namespace)
    stages.show("wrong profile", "Accepted", "ProfileInvalid")
