"""Every malformed file of the corpus: refused, in exactly the words of messages.txt, and nothing beside it touched."""

from pathlib import Path

import pytest

import hwq
from hwq.errors import ModelError
from hwq.onnx_reader import read
from tests.hostile.corpus import CASES
from tests.hostile.network import healthy

MESSAGES = dict(
    line.split(" -> ", 1) for line in Path(__file__).with_name("messages.txt").read_text(encoding="utf-8").splitlines()
)


def test_network_is_healthy_before_it_is_damaged():
    report = hwq.verify(healthy(), "sim-4x4", samples=2, targets=["reference", "machine"])
    assert report.ok
    assert [node.name for node in report.host_nodes] == ["x_q", "y_dq"]


def test_corpus_is_whole():
    assert len(CASES) >= 150
    assert [case.label for case in CASES] == list(MESSAGES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label.replace(" ", "_"))
def test_refused_in_one_sentence(case, tmp_path):
    path = case.write(tmp_path)
    before = {entry: entry.lstat().st_mtime_ns for entry in tmp_path.rglob("*")}
    with pytest.raises(ModelError) as caught:
        hwq.compile(read(path, external_data=True), "sim-4x4")
    assert str(caught.value).replace(f"{path.parent}/", "") == MESSAGES[case.label]
    assert {entry: entry.lstat().st_mtime_ns for entry in tmp_path.rglob("*")} == before
