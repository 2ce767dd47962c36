"""Instance labels of a toy world that was generated without them."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from datamodules.media.instances import instance_labels
from datamodules.samples import BadSample
from experiments.toyworld.generate import MANIFEST
from experiments.toyworld.instances import add_instances
from experiments.toyworld.scene import sample_scene


def test_a_label_is_where_depth_has_its_object(world, tmp_path):
    folder = shutil.copytree(world("3d"), tmp_path / "3d")
    made = json.loads((folder / MANIFEST).read_text()) | {"scenes": 3}
    (folder / MANIFEST).write_text(json.dumps(made))
    add_instances(folder)
    for index in range(3):
        scene = sample_scene(made["seed"], index)
        media = folder / "scans" / scene.name
        labels = instance_labels([media / "color" / f"{i}.jpg" for i in range(4)]).numpy()
        depth = np.stack([np.array(Image.open(media / "depth" / f"{i}.png")) for i in range(4)])
        assert set(np.unique(labels)) == set(range(len(scene.objects) + 1))
        for number, thing in enumerate(scene.objects, 1):
            apart = np.abs(depth[labels == number] / 1000 - thing.distance)
            assert apart.max() < 0.1 * thing.distance + thing.radius
        assert depth[labels == 0].min() > 1800, "walls are behind every object"
    assert not (folder / "scans" / "scene0003_00" / "instance-filt").exists()


def test_a_folder_that_is_not_a_3d_world_is_refused(tmp_path):
    with pytest.raises(BadSample, match="is not a complete 3d toy world"):
        add_instances(tmp_path)
    (tmp_path / MANIFEST).write_text(json.dumps({"world": "audio", "seed": 0, "scenes": 3}))
    with pytest.raises(BadSample, match="is not a complete 3d toy world"):
        add_instances(tmp_path)
