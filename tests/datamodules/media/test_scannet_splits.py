import pytest

from datamodules.media.scannet_splits import find_scenes, listed_scenes
from datamodules.samples import BadSample
from datamodules.splits import hold_out


def names(folders):
    return [folder.name for folder in folders]


def test_scans_folder_plain_folder_and_single_scene(root):
    expected = [f"scene000{i}_00" for i in range(5)]
    (root / "scans" / ".unfinished" / "depth").mkdir(parents=True)
    (root / "scans" / "notes").mkdir()
    assert names(find_scenes(root)) == expected
    assert names(find_scenes(root / "scans")) == expected
    assert find_scenes(root / "scans" / expected[2]) == [root / "scans" / expected[2]]


def test_a_missing_or_empty_root_names_the_remedy(tmp_path):
    with pytest.raises(BadSample, match=r"absent: is missing\. Give the folder"):
        find_scenes(tmp_path / "absent")
    with pytest.raises(BadSample, match=rf"{tmp_path}: holds no scene .*Give the folder"):
        find_scenes(tmp_path)


def test_lists_are_honoured(root):
    assert listed_scenes(root) == {}
    (root / "scannetv2_train.txt").write_text("scene0003_00\nscene0001_00\n")
    (root / "scannetv2_val.txt").write_text("scene0000_00\n")
    listed = listed_scenes(root)
    assert listed["train"] == [root / "scans" / "scene0003_00", root / "scans" / "scene0001_00"]
    assert names(listed["val"]) == ["scene0000_00"] and listed["test"] == []


def test_a_list_alone_and_a_scene_in_two_lists(root):
    (root / "scannetv2_train.txt").write_text("scene0000_00")
    with pytest.raises(BadSample, match=r"scannetv2_val\.txt: is missing .*Add it, or remove"):
        listed_scenes(root)
    (root / "scannetv2_val.txt").write_text("scene0001_00")
    (root / "scannetv2_test.txt").write_text("scene0000_00")
    with pytest.raises(BadSample, match=r"test\.txt: lists scene0000_00, .*train\.txt.*one list"):
        listed_scenes(root)


@pytest.mark.parametrize(
    "name", ["..", ".", "../secret", "/etc", "link", b"scene\xff", b"a\0b", b"s" * 300]
)
def test_names_that_lead_out_of_the_root_or_are_damaged(root, name):
    (root / "scans" / "link").symlink_to(root, target_is_directory=True)
    content = name if isinstance(name, bytes) else name.encode()
    (root / "scannetv2_train.txt").write_bytes(content)
    (root / "scannetv2_val.txt").write_text("scene0000_00")
    with pytest.raises(BadSample, match=r"scannetv2_train\.txt: .*([Cc]orrect|Download)"):
        listed_scenes(root)


@pytest.mark.parametrize(("count", "held"), [(2, 1), (4, 1), (5, 1), (10, 2), (14, 2), (1513, 302)])
def test_the_last_fifth_is_held_out(count, held):
    train, val = hold_out(range(count))
    assert [*train, *val] == list(range(count)) and len(val) == held
