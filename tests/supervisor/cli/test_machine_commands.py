"""The unit for this machine, and the completion of shells."""

import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from agentscope_supervisor.cli import machine_commands
from agentscope_supervisor.cli.machine_commands import unit_text
from agentscope_supervisor.cli.main import main

SHIPPED = (Path(__file__).parents[3] / "configs/systemd/agentscope-supervisor@.service").read_text("utf-8")


def test_the_template_has_the_path_of_the_program() -> None:
    text = unit_text(SHIPPED, "/opt/venv/bin/agentscope-supervisor", None, "")
    assert text.count("=/opt/venv/bin/agentscope-supervisor ") == 2
    assert "ExecStart=/opt/venv/bin/agentscope-supervisor start /srv/%i --name %i " in text
    assert "/usr/bin/agentscope-supervisor" not in text
    assert len(text.splitlines()) == len(SHIPPED.splitlines())


def test_a_unit_of_one_project_is_no_template() -> None:
    text = unit_text(SHIPPED, "/opt/a", Path("/data/my_app"), "my_app")
    assert "ExecStart=/opt/a start /data/my_app --name my_app --host 0.0.0.0 " in text
    assert "WorkingDirectory=/data/my_app\n" in text
    assert "%i" not in text
    assert text.startswith("# Hosts /data/my_app:\n")


def test_the_command_prints_the_unit_and_warns_of_homes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/home/ann/bin/agentscope-supervisor"])
    printed = CliRunner().invoke(main, ["unit"])
    assert printed.exit_code == 0
    assert printed.stdout == unit_text(SHIPPED, "/home/ann/bin/agentscope-supervisor", None, "")
    assert printed.stderr == (
        "warning: /home/ann/bin/agentscope-supervisor is in a home folder, which the service cannot read"
        " (ProtectHome=, DynamicUser=). Put it elsewhere, for example below /opt or /srv\n"
    )
    (tmp_path / "my app").mkdir()
    refused = CliRunner().invoke(main, ["unit", str(tmp_path / "my app")])
    assert refused.exit_code == 2
    assert "systemd cannot use this path without escapes" in refused.stderr


def test_an_installation_without_data_files_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_commands, "_UNIT", "systemd/none.service")
    refused = CliRunner().invoke(main, ["unit"])
    assert (refused.exit_code, refused.stderr) == (
        1,
        "Error: the unit is not installed: this package has no data files here\n",
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_valid(shell: str) -> None:
    printed = CliRunner().invoke(main, ["completion", shell])
    assert printed.exit_code == 0, printed.output
    assert "_AGENTSCOPE_SUPERVISOR_COMPLETE" in printed.stdout
    program = shutil.which(shell)
    if program is not None:
        subprocess.run([program, "-n"], input=printed.stdout, text=True, check=True)


def test_commands_and_options_are_completed() -> None:
    words = {"COMP_WORDS": "agentscope-supervisor sta", "COMP_CWORD": "1"}
    completed = CliRunner().invoke(
        main,
        [],
        prog_name="agentscope-supervisor",
        env={"_AGENTSCOPE_SUPERVISOR_COMPLETE": "bash_complete", **words},
    )
    assert completed.stdout.split() == ["plain,stacks", "plain,start", "plain,status"]
