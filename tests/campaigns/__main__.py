"""Run a campaign, or one of its trials again."""

import argparse

from tests.campaigns.campaign import go_on
from tests.campaigns.registry import CAMPAIGNS

parser = argparse.ArgumentParser(prog="python -m tests.campaigns", description=__doc__)
parser.add_argument("name", choices=sorted(CAMPAIGNS))
parser.add_argument("--trials", type=int, default=1000, help="to have run in all")
parser.add_argument("--replay", type=int, help="run this trial alone")
arguments = parser.parse_args()
campaign = CAMPAIGNS[arguments.name]
if arguments.replay is not None:
    print(campaign.replay(arguments.replay))
else:
    state = go_on(campaign, arguments.trials)
    print(f"{campaign.name}: {state['trials']} trials, {len(state['failed'])} failed")
    raise SystemExit(bool(state["failed"]))
