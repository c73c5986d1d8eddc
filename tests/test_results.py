"""The measurements kept with the project, and the pages made from them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hwq import demo
from hwq.report import peers, results

ROOT = Path(__file__).resolve().parent.parent
ROWS = json.loads(results.RESULTS.read_text(encoding="utf-8"))


def test_every_network_is_measured_on_every_architecture():
    wanted = [(network, arch) for network in (*results.NETWORKS, results.BUNDLED) for arch in results.ARCHS]
    assert [(row["network"], row["arch"]) for row in ROWS] == wanted


def test_every_row_is_exact():
    assert [row for row in ROWS if row["mismatches"] or row["cycles_measured"] != row["cycles_predicted"]] == []


@pytest.mark.parametrize("arch", results.ARCHS)
def test_the_bundled_rows_are_what_the_compiler_gives_today(arch):
    from hwq import estimate

    (row,) = (row for row in ROWS if (row["network"], row["arch"]) == (results.BUNDLED, arch))
    costs = estimate(demo.model_path(), arch)
    assert (row["macs"], row["cycles_predicted"]) == (costs.macs, costs.cycles_predicted)


def test_third_party_rows_are_what_the_compiler_gives_today(workloads):
    from hwq import estimate

    for row in ROWS:
        if row["network"] in results.NETWORKS:
            costs = estimate(workloads / results.NETWORKS[row["network"]], row["arch"])
            assert (row["macs"], row["cycles_predicted"]) == (costs.macs, costs.cycles_predicted), row


def test_peers_figures_give_the_utilisation_they_were_published_with():
    macs = {row["network"]: row["macs"] for row in ROWS}
    boards = json.loads(peers.PEERS.read_text(encoding="utf-8"))["boards"]
    shares = {
        (board["network"].split()[2].rstrip(","), board["board"]): 100
        * macs[board["network"]]
        / (peers.cycles(board) * board["dsp"])
        for board in boards
    }
    published = {("ResNet-8", "ZC706"): 86, ("ResNet-8", "Zed"): 101, ("ResNet-8", "Zybo"): 41}
    published |= {("DS-CNN", "Zed"): 31, ("DS-CNN", "Zybo"): 17, ("DS-CNN", "Cora"): 8}
    published |= {("MobileNet-0.25", "ZC706"): 9, ("MobileNet-0.25", "Zed"): 3.8}
    assert shares.keys() == published.keys()
    assert all(abs(shares[key] - published[key]) <= 0.6 for key in shares), shares


def test_every_peer_s_network_has_our_row_beside_it():
    lines = peers.table().splitlines()[2:]
    boards = json.loads(peers.PEERS.read_text(encoding="utf-8"))["boards"]
    networks = {board["network"] for board in boards}
    assert len(lines) == len(boards) + len(networks)
    for row in ROWS:
        if row["arch"] == peers.ARCH and row["network"] in networks:
            assert any(row["network"] in line and f"{row['cycles_measured']:,}" in line for line in lines)


def test_generated_tables_are_current():
    pages = [str(page) for page in sorted(ROOT.glob("*/README.md"))]
    command = [sys.executable, "-m", "cogapp", "--check", "-I", ".", "README.md", *pages]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout


def test_links_between_pages_lead_somewhere():
    import re

    for page in (ROOT / "README.md", *ROOT.glob("*/README.md")):
        text = re.sub(r"\[\[\[cog.*?\]\]\]", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (page.parent / target).exists(), f"{page}: {target}"
