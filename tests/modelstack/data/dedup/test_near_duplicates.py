import subprocess
import sys
from pathlib import Path

import pytest

from modelstack.data.dedup import (
    MinHashConfig,
    lengths_of,
    pairs_of_bucket,
    read_copies,
    write_clusters,
    write_copies,
    write_signatures,
)
from modelstack.errors import UserError
from tools.data.near_duplicate_recall import SIMILARITIES, check, main, similarities

WORDS = [f"{a}{b}{c}" for a in "bcdfg" for b in "aeiou" for c in "lmnrst"]
PAGE = " ".join(WORDS)
NEAR = f"Seen today: {PAGE.upper()}!"
OTHER = " ".join(reversed(WORDS))


def copies_of(folder: Path, shards: list[list[str]], earlier: list[list[str]] | None = None) -> list[list[int]]:
    config = MinHashConfig()
    keys = [folder / f"{i}.keys" for i in range(len(shards))]
    counts = [write_signatures(texts, file, config) for texts, file in zip(shards, keys, strict=True)]
    old = [folder / f"{i}.old" for i in range(len(earlier or []))]
    for texts, file in zip(earlier or [], old, strict=True):
        write_signatures(texts, file, config)
    pairs = [folder / f"{bucket}.pairs" for bucket in range(config.n_buckets)]
    for bucket, out in enumerate(pairs):
        pairs_of_bucket(keys, bucket, out, earlier=old)
    write_clusters(pairs, counts, folder / "clusters.npy")
    write_copies(folder / "clusters.npy", counts, lengths_of(keys), folder / "copies.npy")
    return [read_copies(folder / "copies.npy", counts, shard).tolist() for shard in range(len(shards))]


def test_of_near_duplicates_the_longest_stays_and_short_texts_stay_all(tmp_path: Path) -> None:
    shards = [[PAGE, OTHER, "too short"], [], ["too short", NEAR, PAGE]]
    assert copies_of(tmp_path, shards) == [[0, 1, 1], [], [1, 3, 0]]


def test_what_repeats_an_earlier_dump_goes_with_its_cluster(tmp_path: Path) -> None:
    assert copies_of(tmp_path, [[NEAR, OTHER], [PAGE]], earlier=[["new here"], [PAGE]]) == [[0, 1], [0]]


def test_a_stage_that_is_run_again_writes_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        copies_of(tmp_path / name, [[PAGE, OTHER], [NEAR]])
        contents.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert contents[0] == contents[1]
    assert len(contents[0]) == 2 + 14 + 2


def test_keys_do_not_depend_on_the_process(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from modelstack.data.dedup import MinHashConfig, write_signatures;"
        "write_signatures([sys.argv[1]], Path(sys.argv[2]), MinHashConfig())"
    )
    for seed in ("1", "2"):
        subprocess.run(
            [sys.executable, "-c", program, PAGE, str(tmp_path / seed)], env={"PYTHONHASHSEED": seed}, check=True
        )
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_keys_of_two_configurations_are_not_mixed(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for path, seed in zip(paths, (1, 2), strict=True):
        write_signatures([PAGE], path, MinHashConfig(seed=seed))
    with pytest.raises(UserError, match="same configuration"):
        pairs_of_bucket(paths, 0, tmp_path / "pairs")


@pytest.mark.parametrize("family", ["pairwise", "datatrove"])
def test_planted_duplicates_are_found_as_often_as_theory_says(tmp_path: Path, family: str) -> None:
    config = MinHashConfig.model_validate({"family": family})
    outcome = check(config, n_pairs=60, seed=3, folder=tmp_path)
    assert outcome.holds
    assert outcome.n_background_found == 0
    assert [level.similarity for level in outcome.levels] == pytest.approx(SIMILARITIES, abs=0.01)
    assert outcome.recall == pytest.approx(outcome.recall_by_theory, abs=0.05)
    assert outcome.precision == pytest.approx(outcome.precision_by_theory, abs=0.05)


def test_brute_force_knows_the_similarity_of_texts() -> None:
    found = similarities(["a b c d", "b c d e", "x y", "a b c d"], 2)
    assert found == {(0, 1): 0.5, (0, 3): 1.0, (1, 3): 0.5}


def test_the_check_prints_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--pairs", "5", "--buckets", "4"]) == 0
    printed = capsys.readouterr().out
    assert "4 buckets of 8" in printed
    assert "theory holds" in printed
