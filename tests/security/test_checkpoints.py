"""Untrusted checkpoints."""

import copy
import io
import pickle
import random
import re
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml

from tests.security.conftest import ALIGNED, saved
from vlynx_pl.io.errors import UserError
from vlynx_pl.runs.checkpoints import newest_checkpoint, read_checkpoint

WHOLE = {
    "state_dict": {"w": torch.arange(999.0)}, "optimizer_states": [], "lr_schedulers": [],
    "loops": {"fit_loop": {"epoch": 1}}, "invariants": {}, "seed": 0,
}  # fmt: skip


def test_the_payload_works(pickle_payload, pickled, marker):
    for load in (
        lambda: pickle.loads(pickled),
        lambda: torch.load(io.BytesIO(saved(pickle_payload)), weights_only=False),
    ):
        load()
        marker.rmdir()


def with_parts(content: bytes, compression: int = zipfile.ZIP_STORED, **parts: bytes) -> bytes:
    """A checkpoint with some parts, by the end of their names, replaced; its sums are right."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(packed, "w") as new:
        for name in old.namelist():
            end = name.split("/", 1)[1].replace("/", "_").replace(".", "_")
            if end in parts:
                new.writestr(name, parts[end], compression)
            else:
                new.writestr(name, old.read(name))
    return packed.getvalue()


def refused(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"checkpoint \S+ cannot be used \(.*\); remove it") as told:
        read_checkpoint(path)
    return str(told.value)


def test_a_checkpoint_that_is_a_pickle(tmp_path, pickle_payload, pickled):
    path = tmp_path / "step-00000001.ckpt"
    contents = {
        "plain": pickled,
        "of torch": saved(pickle_payload),
        "of torch before 1.6": saved(pickle_payload, _use_new_zipfile_serialization=False),
        "beside the rest": saved(WHOLE | {"callbacks": {"a": pickle_payload}}),
        "in a list": saved(WHOLE | {"optimizer_states": [pickle_payload]}),
        "in the place of another": with_parts(saved(WHOLE), data_pkl=pickled),
    }
    for content in contents.values():
        assert "weights_only" not in refused(path, content), "do not say how to execute it"


def test_a_checkpoint_that_is_none(tmp_path):
    path = tmp_path / "step-00000001.ckpt"
    for content in (b"", b"hello" * 100, saved([1]), saved({"a": 1}), saved(torch.zeros(3))):
        refused(path, content)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_checkpoint_that_is_packed_to_burst(tmp_path, compression):
    burst = with_parts(saved(WHOLE), compression, data_0=bytes(1 << 26))
    assert len(burst) < 1 << 20
    assert "data/0 in it is compressed" in refused(tmp_path / "a.ckpt", burst)


def test_a_checkpoint_whose_parts_are_the_same_bytes(tmp_path):
    """Or else a small file would become large in memory."""
    many = WHOLE | {"state_dict": {f"w{i}": torch.zeros(1 << 14) for i in range(40)}}
    content, packed = saved(many), io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(packed, "w") as new:
        repeated = [name for name in old.namelist() if re.search(r"/data/[1-9]", name)]
        for name in old.namelist():
            if name not in repeated:
                new.writestr(name, old.read(name))
        [first] = [part for part in new.infolist() if part.filename.endswith("/data/0")]
        for name in repeated:
            again = copy.copy(first)
            again.filename = again.orig_filename = name
            new.filelist.append(again)
    assert len(packed.getvalue()) < len(content) / 10
    assert "its parts overlap" in refused(tmp_path / "a.ckpt", packed.getvalue())
    refused(tmp_path / "a.ckpt", packed.getvalue()[:-1])


def test_a_checkpoint_that_is_cut_off_or_has_changed(tmp_path):
    path, content = tmp_path / "a.ckpt", saved(WHOLE)
    random.seed(0)
    for _ in range(50):
        refused(path, content[: random.randrange(len(content))])
    for _ in range(100):
        changed = bytearray(content)
        changed[random.randrange(len(content))] ^= 1 << random.randrange(8)
        path.write_bytes(changed)
        try:  # dates and the like may change
            found = read_checkpoint(path)
        except UserError:
            continue
        assert torch.equal(found["state_dict"]["w"], WHOLE["state_dict"]["w"])
        assert found["loops"] == WHOLE["loops"]


def test_a_checkpoint_made_with_right_sums_of_wrong_bytes(tmp_path):
    path, content = tmp_path / "a.ckpt", saved(WHOLE)
    with zipfile.ZipFile(io.BytesIO(content)) as parts:
        [pickle_of_it] = [parts.read(n) for n in parts.namelist() if n.endswith("data.pkl")]
    random.seed(0)
    for _ in range(200):
        changed = bytearray(pickle_of_it)
        for _ in range(3):
            changed[random.randrange(2, len(changed))] = random.randrange(256)
        path.write_bytes(with_parts(content, data_pkl=bytes(changed)))
        with suppress(UserError):
            assert isinstance(read_checkpoint(path), dict)
    for odd in (b"", b"\x80\x02.", b"\x80\x02a.", b"\x80\x02h\x05.", b"\x80\x02\x86."):
        refused(path, with_parts(content, data_pkl=odd))


def test_a_run_goes_on_from_the_newest_checkpoint_that_is_none_of_these(tmp_path, pickle_payload):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    contents = [
        saved(WHOLE),
        saved(WHOLE),
        saved(WHOLE | {"a": pickle_payload}),
        saved(WHOLE)[:-99],
    ]
    for step, content in enumerate(contents):
        (folder / f"step-{step:08d}.ckpt").write_bytes(content)
    found, wrong = newest_checkpoint(tmp_path)
    assert found == folder / "step-00000001.ckpt" and len(wrong) == 2


@pytest.mark.parametrize("command", ["fit", "test"])
def test_a_checkpoint_given_by_hand_is_not_unpickled(vlynx, tmp_path, pickle_payload, command):
    (tmp_path / "a.ckpt").write_bytes(saved(WHOLE | {"a": pickle_payload}))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(ALIGNED))
    options = [f"--ckpt_path={tmp_path}/a.ckpt", "--weights_only=false", f"--run={tmp_path}/run"]
    why = {"fit": "holds more than tensors and plain types", "test": "not a checkpoint: leave"}
    code, out = vlynx(command, f"--config={tmp_path}/run.yaml", *options)
    assert code == 1 and "Traceback" not in out and why[command] in out


def test_a_checkpoint_does_not_say_what_is_made(vlynx, tmp_path):
    """Lightning takes the class and the settings of the model from there."""
    other = {"_class_path": "vlynx_pl.tuning.InstructionTuning", "rank": 10**9}
    (tmp_path / "a.ckpt").write_bytes(saved(WHOLE | {"hyper_parameters": other}))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(ALIGNED))
    options = [f"--ckpt_path={tmp_path}/a.ckpt", f"--run={tmp_path}/run"]
    code, out = vlynx("fit", f"--config={tmp_path}/run.yaml", *options)
    assert code == 1 and "nowhere: " in out, "the folder of the data, after the model was made"


def test_a_checkpoint_that_lightning_would_take_by_itself(vlynx, tmp_path, pickle_payload):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "hpc_ckpt_1.ckpt").write_bytes(saved(WHOLE | {"a": pickle_payload}))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(ALIGNED))
    code, out = vlynx("fit", f"--config={tmp_path}/run.yaml", f"--run={tmp_path}/run")
    assert code == 1 and "hpc_ckpt_1.ckpt is no checkpoint of ours" in out
