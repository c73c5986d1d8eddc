import pytest

from hwq import demo
from hwq.report import speed

FLOOR = 0.15
"""A quarter of ONNX Runtime's throughput is the aim; the rest is what a shared machine's noise may take."""


def test_reference_keeps_up_on_the_demo(record_property):
    result = speed.measure(demo.model_path())
    record_property("ratio", result.ratio)
    print(result)
    assert result.ratio >= FLOOR


@pytest.mark.system
def test_reference_keeps_up_on_resnet8(workloads, record_property):
    result = speed.measure(workloads / "models" / "mlperf_ic_resnet8" / "resnet.onnx")
    record_property("ratio", result.ratio)
    print(result)
    assert result.ratio >= FLOOR
    assert result.ratio_single >= FLOOR / 2


def test_main_prints_three_rates(capsys):
    assert speed.main([str(demo.model_path()), "-n", "2", "--turns", "1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("digits: 2 samples, one thread")
    assert len(out.splitlines()) == 4


def test_main_names_what_it_cant_read(capsys, tmp_path):
    assert speed.main([str(tmp_path / "none.onnx")]) == 2
    assert "there is no such file" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--samples", "--turns"])
def test_main_refuses_less_than_one(option, capsys):
    with pytest.raises(SystemExit):
        speed.main([str(demo.model_path()), option, "0"])
    assert "must be at least 1" in capsys.readouterr().err
