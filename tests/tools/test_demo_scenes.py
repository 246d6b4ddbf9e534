"""The demos of detection and segmentation, from drawn scenes to a report, with networks that take seconds."""

import json

import pytest
from PIL import Image

from acmix.errors import UsageError
from acmix.tools.demo_scenes import demo_detect, demo_segment

TINY = (
    "model.args={embed_dim: 16, depths: [1, 1], num_heads: [1, 2], window_size: 4}",
    "train.epochs=1",
    "train.batch_size=4",
    "train.tensorboard=false",
)
DETECT = (*TINY, "task.args={channels: 16, hidden: 16, proposals: 20, samples: 8}")
SEGMENT = (*TINY, "task.args={channels: 16, auxiliary_channels: 16}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("demo", "overrides", "metric"),
    [(demo_detect, DETECT, "box_ap50"), (demo_segment, SEGMENT, "miou")],
)
def test_a_demo_trains_evaluates_draws_and_says_where_all_lies(demo, overrides, metric, tmp_path, capsys):
    data, output = tmp_path / "scenes", tmp_path / "run"
    demo(data, output, overrides, images=(8, 3))
    said = capsys.readouterr().out
    summary = json.loads((output / "summary.json").read_text())
    assert 0 <= summary[metric] <= 100
    assert f"11 scenes in {data}" in said
    assert "best.pt read back" in said
    drawn = sorted((output / "predictions").glob("*.png"))
    assert len(drawn) == 3
    for picture in drawn:
        Image.open(picture).verify()
    for name in ("summary.json", "curves.png", "paths.png", "report.html", "predictions"):
        assert (output / name).exists()
        assert name in said
    # a finished run is shown again, not trained again
    written = (output / "checkpoints" / "best.pt").stat().st_mtime_ns
    demo(data, output, overrides, images=(8, 3))
    assert (output / "checkpoints" / "best.pt").stat().st_mtime_ns == written


@pytest.mark.parametrize("demo", [demo_detect, demo_segment])
def test_another_source_is_refused_before_anything_is_written(demo, tmp_path):
    with pytest.raises(UsageError, match="--source cats: expected digits, clothes, both"):
        demo(tmp_path / "scenes", tmp_path / "run", source="cats")
    assert list(tmp_path.iterdir()) == []
