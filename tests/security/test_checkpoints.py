"""Untrusted checkpoints."""

import copy
import io
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
    "loops": {"fit_loop": {"epoch": 1}}, "invariants": {}, "seed": 0, "frame_chunk": None,
}  # fmt: skip


def test_the_payload_executes_where_it_is_unpickled(pickle_payload, marker):
    torch.load(io.BytesIO(saved(pickle_payload)), weights_only=False)
    marker.rmdir()


def with_parts(content: bytes, compression: int = zipfile.ZIP_STORED, **parts: bytes) -> bytes:
    """Replace parts of a checkpoint, given by the ends of their names; checksums stay right."""
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
        "replacing a part": with_parts(saved(WHOLE), data_pkl=pickled),
    }
    for content in contents.values():
        assert "weights_only" not in refused(path, content), "do not say how to execute it"


def test_a_file_that_is_not_a_checkpoint(tmp_path):
    path = tmp_path / "step-00000001.ckpt"
    for content in (b"", b"hello" * 100, saved([1]), saved({"a": 1})):
        refused(path, content)
    for odd in (b"", b"\x80\x02.", b"\x80\x02a.", b"\x80\x02h\x05.", b"\x80\x02\x86."):
        refused(path, with_parts(saved(WHOLE), data_pkl=odd))


def test_a_compression_bomb(tmp_path):
    bomb = with_parts(saved(WHOLE), zipfile.ZIP_DEFLATED, data_0=bytes(1 << 26))
    assert len(bomb) < 1 << 20
    assert "data/0 in it is compressed" in refused(tmp_path / "a.ckpt", bomb)


def test_a_checkpoint_whose_parts_overlap(tmp_path):
    """Otherwise a small file could become large in memory."""
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


def test_a_checkpoint_that_is_cut_off_or_changed(tmp_path):
    path, content = tmp_path / "a.ckpt", saved(WHOLE)
    random.seed(0)
    for _ in range(50):
        refused(path, content[: random.randrange(len(content))])
    for _ in range(100):
        changed = bytearray(content)
        changed[random.randrange(len(content))] ^= 1 << random.randrange(8)
        path.write_bytes(changed)
        with suppress(UserError):  # a date, for example, may change
            found = read_checkpoint(path)
            assert torch.equal(found["state_dict"]["w"], WHOLE["state_dict"]["w"])
            assert found["loops"] == WHOLE["loops"]


def test_a_run_goes_on_from_the_newest_checkpoint_that_is_whole(tmp_path, pickle_payload):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    whole = saved(WHOLE)
    contents = [whole, whole, saved(WHOLE | {"a": pickle_payload}), whole[:-99]]
    for step, content in enumerate(contents):
        (folder / f"step-{step:08d}.ckpt").write_bytes(content)
    found, wrong = newest_checkpoint(tmp_path)
    assert found == folder / "step-00000001.ckpt" and len(wrong) == 2


@pytest.mark.parametrize("command", ["fit", "test"])
def test_a_checkpoint_given_by_hand_is_not_unpickled(vlynx, tmp_path, pickle_payload, command):
    (tmp_path / "a.ckpt").write_bytes(saved(WHOLE | {"a": pickle_payload}))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(ALIGNED))
    options = [f"--ckpt_path={tmp_path}/a.ckpt", "--weights_only=false", f"--run={tmp_path}/run"]
    why = {"fit": "contains more than tensors and plain types", "test": "not a checkpoint: leave"}
    code, out = vlynx(command, f"--config={tmp_path}/run.yaml", *options)
    assert code == 1 and "Traceback" not in out and why[command] in out


def test_a_checkpoint_does_not_choose_the_model_class(vlynx, tmp_path):
    """Lightning would take the class and the settings of the model from it."""
    other = {"_class_path": "vlynx_pl.tuning.InstructionTuning", "rank": 10**9}
    (tmp_path / "a.ckpt").write_bytes(saved(WHOLE | {"hyper_parameters": other}))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(ALIGNED))
    options = [f"--ckpt_path={tmp_path}/a.ckpt", f"--run={tmp_path}/run"]
    code, out = vlynx("fit", f"--config={tmp_path}/run.yaml", *options)
    assert code == 1 and "nowhere: " in out, "the data, which come after the model"


def test_a_checkpoint_that_lightning_would_load_by_itself(vlynx, tmp_path, pickle_payload):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "hpc_ckpt_1.ckpt").write_bytes(saved(WHOLE | {"a": pickle_payload}))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(ALIGNED))
    code, out = vlynx("fit", f"--config={tmp_path}/run.yaml", f"--run={tmp_path}/run")
    assert code == 1 and "hpc_ckpt_1.ckpt is not a checkpoint of V-LynX" in out
