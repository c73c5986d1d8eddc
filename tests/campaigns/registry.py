"""Every campaign, and the table of what they have come to."""

from tests.campaigns import (
    checksums,
    coverage,
    descriptors,
    descriptors_core,
    graphs,
    program_files,
    python_mutants,
    random_programs,
    rtl_mutants,
    soft_errors,
)
from tests.campaigns.campaign import bound, load

CAMPAIGNS = {
    module.CAMPAIGN.name: module.CAMPAIGN
    for module in (
        program_files,
        descriptors,
        descriptors_core,
        random_programs,
        graphs,
        python_mutants,
        rtl_mutants,
        soft_errors,
    )
}
CAMPAIGNS |= {campaign.name: campaign for campaign in checksums.CAMPAIGNS}


def table() -> str:
    """Return what the campaigns that have been run have come to, as Markdown."""
    lines = ["| campaign | trials | failures | at most, 95% | bins |", "|---|--:|--:|--:|--:|"]
    states = load()
    for name, campaign in CAMPAIGNS.items():
        if name not in states:
            continue
        state = states[name]
        failed = len(state["failed"])
        rate = bound(state["trials"], failed)
        lines.append(f"| {campaign.what} | {state['trials']:,} | {failed} | {rate} | {len(state['bins'])} |")
    return "\n".join(lines)


def reached() -> str:
    """Return the clauses that random programs have reached, as Markdown."""
    return coverage.table(load().get(random_programs.CAMPAIGN.name, {"bins": {}})["bins"])
