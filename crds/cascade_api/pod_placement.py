"""Where a replica's pod may run: affinity to nodes and pods, and spreading, field by field as Kubernetes has them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import Document
from .pod_values import LabelValue, Word
from .quantities import Integer

Weight = Annotated[Integer, Field(ge=1, le=100)]


class NodeRequirement(Document):
    """A condition on a label or a field of a Node."""

    key: Word
    """The label or field."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
    """How it is compared with the values."""
    values: list[Word] = Field(default_factory=list, max_length=32)
    """The values; none for `Exists` and `DoesNotExist`."""


class NodeSelectorTerm(Document):
    """Conditions that must all hold."""

    match_expressions: list[NodeRequirement] = Field(default_factory=list, max_length=16)
    """Conditions on the Node's labels."""
    match_fields: list[NodeRequirement] = Field(default_factory=list, max_length=16)
    """Conditions on the Node's fields, such as `metadata.name`."""


class NodeSelector(Document):
    """Terms of which at least one must hold."""

    node_selector_terms: list[NodeSelectorTerm] = Field(min_length=1, max_length=16)
    """The terms."""


class PreferredNodes(Document):
    """Nodes that are preferred."""

    weight: Weight
    """How much better, 1 to 100."""
    preference: NodeSelectorTerm
    """Which ones."""


class NodeAffinity(Document):
    """Which Nodes the pods may and should run on."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None = None
    """The Nodes on which they may run."""
    preferred_during_scheduling_ignored_during_execution: list[PreferredNodes] = Field(
        default_factory=list, max_length=16
    )
    """The Nodes on which they should run if possible."""


class LabelRequirement(Document):
    """A condition on a label of a pod."""

    key: Word
    """The label."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """How it is compared with the values."""
    values: list[LabelValue] = Field(default_factory=list, max_length=32)
    """The values; none for `Exists` and `DoesNotExist`."""


class LabelSelector(Document):
    """Pods by their labels; all conditions must hold."""

    match_labels: dict[str, LabelValue] = Field(default_factory=dict, max_length=16)
    """Labels with these values."""
    match_expressions: list[LabelRequirement] = Field(default_factory=list, max_length=16)
    """Conditions on labels."""


class PodTerm(Document):
    """Pods, and the part of the cluster in which one counts as near."""

    label_selector: LabelSelector | None = None
    """The pods; absent: the replicas of the same pool."""
    namespaces: list[Word] = Field(default_factory=list, max_length=16)
    """Their namespaces; none: the cascade's."""
    topology_key: Word
    """Label of Nodes whose value tells the parts apart, such as `kubernetes.io/hostname`."""


class PreferredPods(Document):
    """Pods that should be near, or for an anti-affinity far, if possible."""

    weight: Weight
    """How much better, 1 to 100."""
    pod_affinity_term: PodTerm
    """Which ones."""


class PodAffinity(Document):
    """Which pods must and should be near, or for an anti-affinity far."""

    required_during_scheduling_ignored_during_execution: list[PodTerm] = Field(default_factory=list, max_length=16)
    """The pods for which this must hold."""
    preferred_during_scheduling_ignored_during_execution: list[PreferredPods] = Field(
        default_factory=list, max_length=16
    )
    """The pods for which this should hold if possible."""


class Affinity(Document):
    """On which Nodes, and near which pods, the pods run."""

    node_affinity: NodeAffinity | None = None
    """Which Nodes they run on."""
    pod_affinity: PodAffinity | None = None
    """Which pods they run near."""
    pod_anti_affinity: PodAffinity | None = None
    """Which pods they do not run near."""


class TopologySpread(Document):
    """How evenly pods are spread over the parts of a cluster."""

    max_skew: Annotated[Integer, Field(ge=1, le=1024)]
    """How many pods one part may have more than another."""
    topology_key: Word
    """Label of Nodes whose value tells the parts apart, such as `topology.kubernetes.io/zone`."""
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"]
    """Whether a pod waits if placing it would break this."""
    label_selector: LabelSelector | None = None
    """The pods that count; absent: the replicas of the same pool."""
