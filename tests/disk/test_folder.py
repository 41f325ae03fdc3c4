"""The folder of a run: where it lies, that its files are whole and foreign, and what may change when a run goes on."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from trainer.config.schema import RULES, SECTIONS
from trainer.disk import foreign
from trainer.disk.folder import (
    FREE,
    as_yaml,
    is_free,
    locate,
    read_config,
    read_result,
    refuse_changes,
    write_config,
    write_result,
)
from trainer.errors import UserError

NOWHERE = {"resume": None, "run_dir": None, "name": None}
CONFIG: dict[str, Any] = {
    "max_steps": 100,
    "batch_size": 64,
    "seed": 0,
    "device": "auto",
    "trust": [],
    "model": {"_target_": "trainer.models.lenet.LeNet", "layers": [{"p": 0.5}, 3], "width": "${batch_size}"},
    "optimizer": {"lr": 0.1, "betas": [0.9, 0.999]},
    "monitor": {"every": 50},
    "checkpoint": {"keep": 2},
}


def changed(key: str, value: Any) -> dict[str, Any]:
    section, _, last = key.rpartition(".")
    return {**CONFIG, section: {**CONFIG[section], last: value}} if section else {**CONFIG, key: value}


class TestLocate:
    @pytest.mark.parametrize(
        ("keys", "folder"),
        [
            ({"name": "try1"}, "runs/try1"),
            ({"name": "a/b"}, "runs/a/b"),
            ({"name": 7}, "runs/7"),
            ({"run_dir": "/data/x", "name": "try1"}, "/data/x"),
            ({"resume": "runs/old", "run_dir": "/data/x", "name": "try1"}, "runs/old"),
            ({"resume": "auto", "name": "try1"}, "runs/try1"),
            ({"resume": "auto", "run_dir": "x"}, "x"),
        ],
        ids=str,
    )
    def test_a_run_lies_where_the_config_says(self, keys, folder):
        assert locate({**NOWHERE, **keys}, "lenet-digits") == Path(folder)

    def test_an_unnamed_run_has_a_folder_that_says_what_and_when_and_is_made_by_nobody_yet(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        folders = {locate(NOWHERE, "lenet-digits") for _ in range(3)}
        assert len(folders) == 3
        for folder in folders:
            assert re.fullmatch(r"runs/lenet-digits/\d{4}-\d\d-\d\d_\d{6}-[0-9a-f]{4,8}", str(folder))
        assert list(tmp_path.iterdir()) == []


class TestConfig:
    def test_is_read_as_it_was_written_with_nothing_resolved(self, tmp_path):
        write_config(tmp_path, CONFIG, ["model=lenet", "optimizer.lr=0.1"])
        assert read_config(tmp_path) == CONFIG
        assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "overrides.yaml"]
        assert (tmp_path / "overrides.yaml").read_text() == "- model=lenet\n- optimizer.lr=0.1\n"

    @pytest.mark.parametrize("is_there", [True, False])
    def test_of_a_missing_or_empty_folder_is_none(self, tmp_path, is_there):
        folder = tmp_path / "run"
        if is_there:
            folder.mkdir()
        assert read_config(folder) is None
        assert folder.exists() == is_there

    def test_of_a_file_is_refused(self, tmp_path):
        (tmp_path / "run").write_text("")
        with pytest.raises(UserError, match="is a file; a run needs a folder"):
            read_config(tmp_path / "run")

    def test_of_somebody_elses_folder_is_refused(self, tmp_path):
        (tmp_path / "thesis.tex").write_text("")
        with pytest.raises(UserError, match="is not empty and holds no run"):
            read_config(tmp_path)

    @pytest.mark.parametrize(
        "content",
        [
            b"a: [1, 2",
            b"\xff\xfe\x00bad",
            b"- 1\n- 2\n",
            b"5\n",
            b"a: b: c",
            b"!!python/name:os.system",
            b"a: ${x",
        ],
        ids=repr,
    )
    def test_that_is_none_is_refused_with_one_line(self, tmp_path, content):
        (tmp_path / "config.yaml").write_bytes(content)
        with pytest.raises(UserError, match=rf"^{tmp_path}/config\.yaml: [^\n]+$"):
            read_config(tmp_path)

    def test_runs_no_code(self, tmp_path):
        marker = tmp_path / "it_ran"
        (tmp_path / "config.yaml").write_text(f"a: !!python/object/apply:os.system ['touch {marker}']\n")
        with pytest.raises(UserError, match="can't be read"):
            read_config(tmp_path)
        assert not marker.exists()


class TestChanges:
    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("max_steps", 200),
            ("device", "cpu"),
            ("trust", ["mine"]),
            ("monitor.every", 10),
            ("monitor.graph", False),
            ("checkpoint.keep", 5),
        ],
    )
    def test_that_change_no_number_are_free(self, key, value):
        refuse_changes(Path("runs/x"), CONFIG, changed(key, value))

    @pytest.mark.parametrize(
        ("key", "value", "shown"),
        [
            ("batch_size", 32, "batch_size=32 (was 64)"),
            ("seed", 1, "seed=1 (was 0)"),
            ("seed", None, "seed=null (was 0)"),
            ("optimizer.lr", 0.2, "optimizer.lr=0.2 (was 0.1)"),
            ("optimizer.betas", [0.9, 0.9], "optimizer.betas=[0.9,0.9] (was [0.9,0.999])"),
            ("optimizer.nesterov", True, "optimizer.nesterov=true (was null)"),
            ("model._target_", "mine.Net", "model._target_=mine.Net (was trainer.models.lenet.LeNet)"),
        ],
    )
    def test_of_model_data_or_update_are_refused_with_both_values(self, key, value, shown):
        with pytest.raises(UserError) as caught:
            refuse_changes(Path("runs/x"), CONFIG, changed(key, value))
        assert shown in str(caught.value)

    def test_of_the_layers_are_refused(self):
        layers = [{"p": 0.6}, 3]
        with pytest.raises(UserError, match=r"model\.layers="):
            refuse_changes(Path("runs/x"), CONFIG, changed("model.layers", layers))

    def test_that_leave_a_key_out_are_refused_and_all_are_listed(self):
        less = {**changed("batch_size", 1), "optimizer": {"lr": 0.1}}
        with pytest.raises(UserError, match=r"batch_size=1 \(was 64\), optimizer\.betas=null \(was \[0\.9,0\.999\]\)"):
            refuse_changes(Path("runs/x"), CONFIG, less)

    def test_a_null_is_as_good_as_no_key(self):
        refuse_changes(Path("runs/x"), CONFIG, changed("optimizer.nesterov", None))

    def test_what_is_free_are_keys_that_exist(self):
        names = {key.split(".")[0] for key in RULES}
        names |= {"data.cache", "data.fixed", "data.num_workers", "gradient.checkpoint", "metric"}
        assert set(FREE) <= names
        free = {key for key in RULES if key.split(".")[0] in ("model", "data", "loss", "optimizer") and is_free(key)}
        assert free == {"data.num_workers", "data.cache", "data.fixed"}  # all of them change no number
        assert {section for section in SECTIONS if not is_free(section)} == {"average", "gradient"}


class TestResult:
    def test_is_read_as_it_was_written(self, tmp_path):
        result = {"status": "finished", "test/accuracy": 0.98, "steps": 100}
        write_result(tmp_path, result)
        assert read_result(tmp_path) == result
        assert [path.name for path in tmp_path.iterdir()] == ["result.json"]

    def test_is_json_whatever_the_numbers(self, tmp_path):
        """Strict readers, as JavaScript's, know no NaN."""
        write_result(tmp_path, {"train/loss": math.nan, "grad_norm": math.inf, "steps": 3})
        text = (tmp_path / "result.json").read_text()
        assert json.loads(text, parse_constant=pytest.fail) == {"train/loss": None, "grad_norm": None, "steps": 3}

    @pytest.mark.parametrize("content", [None, b"", b'{"status": "fin', b"[1]", b"\xff", b"null"], ids=repr)
    def test_that_is_missing_or_cut_is_none(self, tmp_path, content):
        if content is not None:
            (tmp_path / "result.json").write_bytes(content)
        assert read_result(tmp_path) == {}


@pytest.mark.parametrize(
    "plain",
    [
        [],
        ["name=2026_11_22", "model.width=1e3"],
        {"a": {"b": None, "c": [], "d": {}}, 0: True, 1.5: [1, [2.0, 1e-7, float("inf")]], "e": ""},
        {"off": "off", "n": "null", "d": "2026-11-22", "e": "1e3", "s": "1:30", "u": "Müller", "l": 90 * "long "},
        {"x": "${seed}", "y": "???", "z": "a: b # c", "m": "two\nlines ", "t": (1, "2"), "q": "'\""},
    ],
)
def test_yaml_is_what_omegaconf_writes(plain):
    """Also where one mapping stands in two places."""
    plain = {"one": plain, "other": plain}
    assert as_yaml(plain) == OmegaConf.to_yaml(OmegaConf.create(plain))


@pytest.mark.parametrize("text", ["a\x85b", "\u2028", "\ufeff", "a\r\n", "\t", "😀", "caf\udcc3\udca9.csv"])
def test_yaml_is_read_back_as_it_was(text):
    """OmegaConf's own writer makes a blank of U+0085, a line break of old mainframes."""
    assert foreign.read_yaml(as_yaml({"a": text})) == {"a": text}
