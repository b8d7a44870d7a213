"""What has a name here and is no gate: measures of routes, and planners. Importing this loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from junctor.layers.catalogue import Status

Kind = Literal["measure", "planner"]


@dataclass(frozen=True, slots=True)
class PartEntry:
    """One named part.

    where    "module:function"
    source   paper or code, and what of it was read
    """

    name: str
    kind: Kind
    where: str
    source: str
    status: Status
    summary: str


PARTS: tuple[PartEntry, ...] = (
    PartEntry(
        "load", "measure", "junctor.layers.diagnostics:load_share_E", "common", "ours", "each expert's share of the edges"
    ),
    PartEntry(
        "max-vio",
        "measure",
        "junctor.layers.diagnostics:max_violation",
        "Wang et al. 2024 (Loss-Free), arXiv 2408.15664",
        "faithful",
        "fullest expert over the mean load, less one",
    ),
    PartEntry(
        "entropy", "measure", "junctor.layers.diagnostics:routing_entropy", "common", "ours", "of a token's scores, over log E"
    ),
    PartEntry(
        "flip-rate",
        "measure",
        "junctor.layers.diagnostics:flip_rate",
        "Dai et al. 2022 (StableMoE): routing fluctuation",
        "ours",
        "share of tokens whose experts differ between two checkpoints",
    ),
    PartEntry(
        "moe-lrc",
        "measure",
        "junctor.layers.diagnostics:segment_routing_performance",
        "local routing consistency (SRP and SCH), authors' code",
        "faithful",
        "how well one route per segment, or a small cache, serves the tokens of a segment",
    ),
    PartEntry(
        "committee",
        "measure",
        "junctor.layers.diagnostics:standing_committee",
        "COMMITTEEAUDIT, arXiv 2601.03425, abstract",
        "adapted",
        "experts that hold more than their share of the routing in every domain",
    ),
    PartEntry(
        "specialisation",
        "measure",
        "junctor.layers.diagnostics:specialisation",
        "mutual information with the Miller-Madow correction",
        "ours",
        "what a token's class says of its expert",
    ),
    PartEntry(
        "n-eff",
        "measure",
        "junctor.layers.diagnostics:compositions_per_route",
        "head-wise MH-MoE, abstract",
        "adapted",
        "effective number of token classes that share a route",
    ),
    PartEntry(
        "llep",
        "planner",
        "junctor.layers.planner:least_loaded",
        "Least-Loaded Expert Parallelism, authors' code",
        "adapted",
        "spills tokens of busy devices to the least loaded ones; limits on memory are ours",
    ),
)
