"""Where a published part comes from: its paper, how close we are to it, what it costs, and what its authors claim.

Every estimator and policy of ours carries one as `about` on its config class. `junctor policies` lists them and the pages under
docs/policies are made from them, so that a claim and the code it speaks of live in one file.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Status = Literal["faithful", "adapted", "simulated", "ours"]
"""faithful: the published rule on our encoder; adapted: a stated part is replaced; simulated: needs data that is not recorded
anywhere we could read, so a stated simulation stands in for it; ours: not published elsewhere."""

FAMILIES = (
    "bars",
    "neighbours and tables",
    "regression",
    "latent traits",
    "contrastive and graph",
    "configuration as candidate",
    "label first",
    "online",
    "allocation under budget",
    "after the answer",
    "combination",
)
"""The groups in which policies are listed: by what they need."""


class Claim(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A figure that somebody published: on what data, and how sure we are that it was published so ("read", "abstract",
    "notes", "unverified").
    """

    figure: str
    on: str
    sure: Literal["read", "abstract", "notes", "unverified"] = "notes"


class About(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a reader wants to know before trusting a name.

    title        what its authors call it
    family       one of FAMILIES
    status       see Status
    source       authors, year, title, section
    link         where it can be read, "" when we are not sure
    formula      the rule in a few lines of plain text, in the paper's letters
    adapted      what replaces what, one sentence each; required when the status is adapted or simulated
    unverified   what we could not check, one sentence each
    complexity   of a fit and of one decision, in N rows, M targets, D dimensions
    claims       figures of the authors (or of others who measured it)
    """

    title: str
    family: str
    status: Status
    source: str
    formula: str
    complexity: str
    link: str = ""
    adapted: tuple[str, ...] = ()
    unverified: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()
