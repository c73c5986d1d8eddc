"""Every campaign, and the table of what they have come to."""

from tests.campaigns import descriptors, descriptors_core, program_files
from tests.campaigns.campaign import bound, load

CAMPAIGNS = {
    campaign.name: campaign for campaign in (program_files.CAMPAIGN, descriptors.CAMPAIGN, descriptors_core.CAMPAIGN)
}


def table() -> str:
    """Return what the campaigns have come to, as Markdown."""
    lines = ["| campaign | trials | failures | at most, 95% | bins |", "|---|--:|--:|--:|--:|"]
    states = load()
    for name, campaign in CAMPAIGNS.items():
        state = states.get(name, {"trials": 0, "failed": [], "bins": {}})
        failed = len(state["failed"])
        rate = bound(state["trials"], failed)
        lines.append(f"| {campaign.what} | {state['trials']:,} | {failed} | {rate} | {len(state['bins'])} |")
    return "\n".join(lines)
