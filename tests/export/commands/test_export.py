"""The command line of `trine export`."""

from pathlib import Path

import pytest

from trine.runtime.commands.program import main


def test_a_flag_of_the_release_before_says_its_new_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", str(tmp_path / "nowhere"), str(tmp_path / "bundle")]
    assert main([*arguments, "--allow-below-floor"]) == 2
    said = capsys.readouterr().err
    assert "--allow-below-floor is now called --allow-below-threshold" in said
    assert main([*arguments, "--allow-below-threshold"]) == 2
    assert "now called" not in capsys.readouterr().err
