"""`agentkit models` and `agentkit doctor`."""

from __future__ import annotations

import json
import subprocess
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentkit.cli import doctor
from agentkit.cli.main import app
from tests.modelstack.inference.tiny_gguf import write_tiny_gguf
from tests.modelstack.toolcalls.tool_templates import HERMES

runner = CliRunner()


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AGENTKIT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_catalog_is_listed_with_what_is_here() -> None:
    listed = runner.invoke(app, ["models", "list"]).output
    assert "smollm2-135m" in listed and "98 MB" in listed and "Apache-2.0" in listed and "not here" in listed


def test_a_missing_model_fails_verification_only_when_it_is_named() -> None:
    assert runner.invoke(app, ["models", "verify"]).exit_code == 0
    named = runner.invoke(app, ["models", "verify", "smollm2-135m"])
    assert named.exit_code == 1 and "agentkit models pull smollm2-135m" in named.output


def test_a_damaged_model_fails_verification(empty_cache: Path) -> None:
    folder = empty_cache / "models" / "smollm2-135m"
    folder.mkdir(parents=True)
    (folder / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"GGUF")
    result = runner.invoke(app, ["models", "verify"])
    assert result.exit_code == 1 and "damaged" in result.output


def test_pulling_prints_the_path(tmp_path: Path) -> None:
    own = tmp_path / "own.gguf"
    own.write_bytes(b"GGUF")
    assert runner.invoke(app, ["models", "pull", str(own)]).output.strip().replace("\n", "") == str(own)


def test_an_unknown_model_is_one_line() -> None:
    result = runner.invoke(app, ["models", "pull", "smollm3"])
    assert result.exit_code == 1 and "nearest: 'smollm2-135m'" in result.output


def test_a_machine_with_everything_has_a_complete_base() -> None:
    result = runner.invoke(app, ["doctor"])
    assert result.exit_code == 0 and "The base install is complete" in result.output
    checks = {check["name"]: check for check in json.loads(runner.invoke(app, ["doctor", "--json"]).output)}
    assert checks["pydantic"]["state"] == "ok" and checks["mcp"]["state"] == "ok"
    assert checks["model smollm2-135m"]["state"] == "missing"
    assert "agentkit models pull smollm2-135m" in checks["model smollm2-135m"]["fix"]


def without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> dict[str, doctor.Check]:
    def absent(name: str) -> str:
        if name in missing:
            raise PackageNotFoundError(name)
        return installed(name)

    installed = doctor.version
    monkeypatch.setattr(doctor, "version", absent)
    monkeypatch.setattr(doctor, "distribution", absent)
    return {check.name: check for check in doctor.examine()}


def test_a_missing_extra_is_an_offer_and_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = without(monkeypatch, "llama-cpp-python", "llguidance")
    assert checks["llama-cpp-python"].state == checks["llguidance"].state == "missing"
    assert 'pip install "agentkit[local]" (compiles' in checks["llama-cpp-python"].fix
    assert runner.invoke(app, ["doctor"]).exit_code == 0


def test_a_missing_base_package_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    assert without(monkeypatch, "httpx")["httpx"].state == "broken"
    result = runner.invoke(app, ["doctor"])
    assert result.exit_code == 1 and "broken in 1 place" in result.output


def test_a_library_that_cannot_be_loaded_is_found_without_ending_the_doctor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def crash(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], -4, "", "")

    monkeypatch.setattr(doctor.subprocess, "run", crash)
    checks = {check.name: check for check in doctor.examine()}
    assert "ended with status -4" in checks["llama.cpp"].detail and "--force-reinstall" in checks["llama.cpp"].fix


def test_the_doctor_says_in_which_convention_a_file_is_spoken_to(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "own.gguf", chat_template=HERMES)
    output = runner.invoke(app, ["doctor", "--json", "--model", str(path)]).output
    (check,) = [check for check in json.loads(output) if check["name"] == "model own.gguf"]
    assert check["state"] == "ok"
    assert check["detail"].endswith("calls as in 'hermes': the chat template writes calls in it")
    (tmp_path / "bad.gguf").write_bytes(b"no model")
    output = runner.invoke(app, ["doctor", "--json", "--model", str(tmp_path / "bad.gguf")]).output
    assert any("cannot be read" in check["detail"] for check in json.loads(output))


def test_an_api_key_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    output = runner.invoke(app, ["doctor", "--json"]).output
    assert "sk-secret" not in output and "OPENAI_API_KEY" in output
