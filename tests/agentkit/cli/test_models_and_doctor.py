"""`agentkit models` and `agentkit doctor`."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from agentkit.cli import doctor
from agentkit.cli.main import app
from agentkit.models.catalog import entries
from agentkit.models.catalog.entries import CATALOG
from agentkit.models.catalog.store import Progress, Tell
from agentkit.models.local.profiles import DEFAULT_PROFILE, PROFILES
from mcp_servers.distribution import install_command
from modelstack.inference.state_store import StateStore
from tests.golden import TERMINAL, on_screen
from tests.modelstack.inference.tiny_gguf import write_tiny_gguf
from tests.modelstack.toolcalls.tool_templates import HERMES

runner = CliRunner()


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AGENTKIT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_catalog_is_listed_with_size_memory_licence_and_purpose() -> None:
    listed = on_screen(runner.invoke(app, ["models", "list"], env=TERMINAL).output)
    for entry in CATALOG.values():
        (row,) = (line for line in listed.splitlines() if line.startswith(entry.id))
        assert f"{entry.size / 1e6:.0f} MB" in row and f"{entry.memory / 1e9:.1f} GB" in row
        assert row.endswith(entry.licence) and entry.good_for in listed
    assert max(map(len, listed.splitlines())) < 80
    assert f"{PROFILES[DEFAULT_PROFILE]}  {DEFAULT_PROFILE} *" in listed
    assert listed.count("not an open-source licence: https://ai.google.dev/gemma/terms") == 1


def test_the_list_says_what_is_here(empty_cache: Path) -> None:
    def is_here() -> bool:
        listed = json.loads(runner.invoke(app, ["models", "list", "--json"]).stdout)
        return {row["id"]: row["is_present"] for row in listed}["gemma3-270m"]

    entry = CATALOG["gemma3-270m"]
    assert not is_here()
    entry.slot.directory.mkdir(parents=True)
    with entry.slot.path.open("wb") as file:
        file.truncate(entry.size)
    assert is_here()


@pytest.mark.parametrize("name", ["small", "local:small", "qwen2.5-coder-0.5b"])
def test_a_profile_and_its_model_name_the_same_file(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pulled: list[object] = []
    monkeypatch.setattr(entries, "pull", lambda spec, **_: pulled.append(entries.parse_spec(spec)))
    result = runner.invoke(app, ["models", "pull", name])
    assert result.exit_code == 0 and pulled == [CATALOG["qwen2.5-coder-0.5b"]]
    assert "fetching qwen2.5-coder-0.5b (491 MB, Apache-2.0); it is kept for the next time" in result.output


def test_pulling_gemma_tells_its_terms_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "pull", lambda spec, **_: spec)
    output = runner.invoke(app, ["models", "pull", "gemma3-270m"]).output
    terms = "Gemma Terms of Use, not an open-source licence: https://ai.google.dev/gemma/terms"
    assert f"fetching gemma3-270m (253 MB, {terms})" in output


def test_a_pull_in_a_pipe_tells_sources_and_nothing_that_scrolls(monkeypatch: pytest.MonkeyPatch) -> None:
    def pull(spec: str, *, progress: Progress, tell: Tell) -> Path:
        tell("trying the hub")
        for done in range(0, 491_000_001, 1_000_000):
            progress(done, 491_000_000)
        return Path("model.gguf")

    monkeypatch.setattr(entries, "pull", pull)
    lines = runner.invoke(app, ["models", "pull", "small"]).output.splitlines()
    assert lines[1:] == ["trying the hub", "model.gguf"]


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


def test_memory_is_compared_with_what_the_default_model_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = CATALOG[PROFILES[DEFAULT_PROFILE]].memory + doctor.SPARE_MEMORY_BYTES
    for free, state in ((wanted, "ok"), (wanted - 1, "missing")):
        monkeypatch.setattr(doctor, "_available_memory_bytes", lambda free=free: free)
        assert doctor._memory().state == state


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
    assert f"{install_command('local')} (compiles" in checks["llama-cpp-python"].fix
    assert runner.invoke(app, ["doctor"]).exit_code == 0


def test_a_process_that_was_looked_over_can_still_import_setuptools() -> None:
    code = "from agentkit.cli import doctor; assert doctor._pip().state == 'ok'; import setuptools"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_base_package_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    assert without(monkeypatch, "httpx")["httpx"].state == "broken"
    result = runner.invoke(app, ["doctor"])
    assert result.exit_code == 1 and "broken (!!): 1 fault" in result.output


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


def test_the_doctor_says_where_the_prompt_cache_lies_and_how_large_it_is(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTKIT_PROMPT_CACHE_MB", "100")
    StateStore(empty_cache / "prompts").put(bytes(32), range(9), np.zeros(3_000_000, np.uint8))
    found = {check.name: check for check in doctor.examine()}["prompt cache"]
    assert found.state == "ok"
    assert found.detail == f"{empty_cache / 'prompts'}, 1 prompts, 3 MB of at most 105 MB"
    monkeypatch.setenv("AGENTKIT_PROMPT_CACHE_MB", "0")
    assert "off" in {check.name: check for check in doctor.examine()}["prompt cache"].detail
    monkeypatch.setenv("AGENTKIT_PROMPT_CACHE_MB", "lots")
    assert {check.name: check for check in doctor.examine()}["prompt cache"].state == "missing"


def test_the_doctor_says_where_runs_conversations_traces_and_pins_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {"journal": tmp_path / "runs.db", "traces": tmp_path / "traces", "pins": tmp_path / "pins"}
    monkeypatch.setenv("AGENTKIT_JOURNAL", str(places["journal"]))
    monkeypatch.setenv("AGENTKIT_TRACE_DIR", str(places["traces"]))
    monkeypatch.setenv("AGENTKIT_PINS_DIR", str(places["pins"]))

    def found() -> dict[str, str]:
        checks = {check.name: check for check in doctor.examine()}
        assert {checks[name].state for name in (*places, "sessions")} == {"ok"}
        assert checks["sessions"].detail == checks["journal"].detail
        return {name: checks[name].detail for name in places}

    assert found() == {name: f"{place}, not written yet" for name, place in places.items()}
    assert not any(place.exists() for place in places.values())
    places["journal"].touch()
    places["traces"].mkdir()
    places["pins"].mkdir()
    assert found() == {name: str(place) for name, place in places.items()}


def test_the_doctor_names_the_variable_that_moves_a_place_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTKIT_TRACE_DIR", str(tmp_path / "traces"))
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: path != tmp_path)
    found = {check.name: check for check in doctor.examine()}["traces"]
    assert (found.state, found.fix) == ("missing", "set AGENTKIT_TRACE_DIR to another folder")
    assert found.detail == f"{tmp_path / 'traces'} cannot be written"


def test_the_prompt_cache_can_be_cleared(empty_cache: Path) -> None:
    store = StateStore(empty_cache / "prompts")
    store.put(bytes(32), range(9), np.zeros(3_000_000, np.uint8))
    cleared = runner.invoke(app, ["models", "clear-prompts"])
    assert cleared.exit_code == 0 and "1 prompts, 3 MB removed" in cleared.output
    assert store.usage().n_states == 0
    assert "0 prompts" in runner.invoke(app, ["models", "clear-prompts"]).output
