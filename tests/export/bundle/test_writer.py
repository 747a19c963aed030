"""A bundle is written whole or not at all, and never over what is not a bundle."""

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import numpy as np
import pytest

from trine.export.bundle.writer import check_destination
from trine.export.export import export_checkpoint
from trine.export.options import ExportOptions
from trine.runtime.bundle.atomic import write_folder
from trine.runtime.bundle.bundle import open_bundle
from trine.runtime.commands.program import main
from trine.runtime.errors import BundleError, CheckpointError

Refuse = Callable[..., str]


def options(source: Path, bundle: Path, force: bool = False) -> ExportOptions:
    return ExportOptions(source=str(source), bundle=bundle, force=force, check=False)


@pytest.fixture
def made(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A bundle to be replaced."""
    bundle = tmp_path / "made" / "bundle"
    export_checkpoint(options(tiny_checkpoint, bundle), io.StringIO())
    return bundle


def state(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_bundle_that_is_there_is_kept(refuse: Refuse, tiny_checkpoint: Path, made: Path) -> None:
    before = state(made)
    refuse(
        tiny_checkpoint,
        str(made),
        "a bundle is there already",
        "use --force to replace it",
        error=BundleError,
        bundle=made,
    )
    assert state(made) == before


def test_force_replaces_a_bundle(tiny_checkpoint: Path, made: Path) -> None:
    (made / "left-over").write_text("of the former bundle")
    export_checkpoint(options(tiny_checkpoint, made, force=True), io.StringIO())
    assert not (made / "left-over").exists()
    assert open_bundle(made).check_hashes() == []
    assert [path.name for path in made.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize("force", [False, True])
def test_folder_that_is_no_bundle_is_never_deleted(
    refuse: Refuse, tiny_checkpoint: Path, tmp_path: Path, force: bool
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "summer.png").write_bytes(b"precious")
    refuse(
        tiny_checkpoint,
        str(photos),
        "exists and is no bundle",
        "give another path",
        error=BundleError,
        bundle=photos,
        force=force,
    )
    assert (photos / "summer.png").read_bytes() == b"precious"


@pytest.mark.parametrize("force", [False, True])
def test_folder_with_another_manifest_is_never_deleted(
    refuse: Refuse, tiny_checkpoint: Path, tmp_path: Path, force: bool
) -> None:
    """Browser extensions and web apps have a manifest.json too."""
    app = tmp_path / "app"
    app.mkdir()
    (app / "manifest.json").write_text('{"name": "my app", "manifest_version": 3}')
    (app / "precious.js").write_text("precious")
    refuse(
        tiny_checkpoint,
        str(app),
        "exists and is no bundle",
        "give another path",
        error=BundleError,
        bundle=app,
        force=force,
    )
    assert (app / "precious.js").read_text() == "precious"


@pytest.mark.parametrize("force", [False, True])
def test_file_in_the_way(
    refuse: Refuse, tiny_checkpoint: Path, tmp_path: Path, force: bool
) -> None:
    file = tmp_path / "file"
    file.write_text("precious")
    refuse(tiny_checkpoint, "exists and is no bundle", error=BundleError, bundle=file, force=force)
    assert file.read_text() == "precious"


def test_empty_folder_is_filled(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    export_checkpoint(options(tiny_checkpoint, tmp_path / "bundle"), io.StringIO())
    assert open_bundle(tmp_path / "bundle").check_hashes() == []


def test_parents_are_made(tiny_checkpoint: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "a" / "b" / "bundle"
    export_checkpoint(options(tiny_checkpoint, bundle), io.StringIO())
    assert open_bundle(bundle).folder == bundle


def test_parents_are_removed_again_when_the_export_fails(
    refuse: Refuse, checkpoint: Path, tmp_path: Path
) -> None:
    (checkpoint / "tokenizer.json").write_text("{}")
    refuse(checkpoint, "not a readable tokenizer", bundle=tmp_path / "a" / "b")
    with pytest.raises(CheckpointError):
        export_checkpoint(options(checkpoint, tmp_path / "new" / "b" / "c"), io.StringIO())
    assert not (tmp_path / "new").exists()


def test_folder_one_is_in_is_filled(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    export_checkpoint(options(tiny_checkpoint, Path()), io.StringIO())
    assert open_bundle(tmp_path / "here").check_hashes() == []
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


@pytest.mark.parametrize("kind", ["nothing", "empty", "bundle"])
def test_what_a_link_leads_to_is_written(tiny_checkpoint: Path, made: Path, kind: str) -> None:
    link, target = made.with_name("link"), made if kind == "bundle" else made.with_name("target")
    link.symlink_to(target)
    if kind == "empty":
        target.mkdir()
    export_checkpoint(options(tiny_checkpoint, link, force=True), io.StringIO())
    assert link.is_symlink()
    assert open_bundle(target).check_hashes() == []
    assert {path.name for path in made.parent.iterdir()} == {"bundle", "link", target.name}


def test_name_that_no_disk_takes(refuse: Refuse, tiny_checkpoint: Path, tmp_path: Path) -> None:
    for length in (250, 300):
        bundle = tmp_path / ("a" * length)
        refuse(tiny_checkpoint, "cannot be written (File name", error=BundleError, bundle=bundle)


def test_file_in_place_of_the_parent(refuse: Refuse, tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(BundleError, match=r"cannot be written \(.*file is no folder\); check"):
        export_checkpoint(options(tiny_checkpoint, tmp_path / "file" / "b"), io.StringIO())


def test_mounted_disk(
    refuse: Refuse, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "volume"
    bundle.mkdir()
    monkeypatch.setattr("os.path.ismount", lambda path: path == bundle)
    refuse(tiny_checkpoint, "is a mounted disk", "a folder on it", error=BundleError, bundle=bundle)


def test_damaged_bundle_can_be_replaced(tiny_checkpoint: Path, made: Path) -> None:
    (made / "manifest.json").write_text((made / "manifest.json").read_text()[:400])
    export_checkpoint(options(tiny_checkpoint, made, force=True), io.StringIO())
    assert open_bundle(made).check_hashes() == []


def test_export_that_is_under_way(refuse: Refuse, tiny_checkpoint: Path, tmp_path: Path) -> None:
    with write_folder(tmp_path / "bundle", BundleError):
        refuse(
            tiny_checkpoint,
            "bundle.partial: another process is writing it",
            "wait for that",
            error=BundleError,
            bundle=tmp_path / "bundle",
        )


def test_what_a_killed_export_left_is_taken_over(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / ".bundle.partial" / "engines").mkdir(parents=True)
    (tmp_path / ".bundle.partial.lock").touch()
    export_checkpoint(options(tiny_checkpoint, tmp_path / "bundle"), io.StringIO())
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_full_disk(
    refuse: Refuse, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1234))
    refuse(
        tiny_checkpoint,
        "MB of disk, 1.2 kB are free",
        "make room, or export fewer tasks",
        error=BundleError,
        bundle=tmp_path / "new",
    )


def test_disk_that_fills_up_while_writing(
    refuse: Refuse, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("onnx_ir.save", fail)
    refuse(tiny_checkpoint, "No space left on device", error=BundleError)


def interrupt(*arguments: object, **options: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "step",
    ["onnx_ir.save", "numpy.savez", "trine.export.quantisation.engine_making.measure_engine"],
)
def test_ctrl_c_leaves_what_was_there(
    tiny_checkpoint: Path,
    made: Path,
    step: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = state(made.parent)
    monkeypatch.setattr(step, interrupt)
    for target in (made, made.with_name("new")):
        assert main(["export", str(tiny_checkpoint), str(target), "--force"]) == 130
        assert capsys.readouterr() == ("", "trine export: interrupted\n")
        assert state(made.parent) == before
        assert [path.name for path in made.parent.iterdir()] == ["bundle"]


def test_failed_rename_brings_the_former_bundle_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "manifest.json").write_text("former")
    rename = os.rename

    def fail(source: Path, target: Path) -> None:
        if source.name == ".bundle.partial":
            raise OSError(13, "Permission denied")
        rename(source, target)

    monkeypatch.setattr("os.rename", fail)
    with pytest.raises(BundleError, match="Permission denied"), write_folder(bundle, BundleError):
        pass
    assert (bundle / "manifest.json").read_text() == "former"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_nothing_to_check_where_nothing_is(tmp_path: Path) -> None:
    check_destination(tmp_path / "new", force=False)
    check_destination(tmp_path, force=False)
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_cannot_be_opened_is_not_reported_as_done(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damage(file: Path | BinaryIO, **arrays: np.ndarray) -> None:
        savez(file, **({} if isinstance(file, Path) else arrays))

    savez = np.savez
    monkeypatch.setattr("numpy.savez", damage)
    with pytest.raises(BundleError, match="damaged"):
        export_checkpoint(options(tiny_checkpoint, tmp_path / "bundle"), io.StringIO())
    assert list(tmp_path.iterdir()) == []
