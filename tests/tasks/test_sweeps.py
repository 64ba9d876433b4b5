"""What sweeps are ordered by: grids, searches, and what is refused before anything trains."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tasks.config import RuntimeConfig, TimeoutHours
from tasks.errors import ConfigError, TrainerFailed, TrainerPreempted
from tasks.manifest import Json, Ref
from tasks.stage import Call, Handle, Stage
from tasks.store import ArtifactStore
from tasks.sweeps.grid import Variant, parse_grid, variants_of
from tasks.sweeps.order import Order, check, command_of
from tasks.sweeps.running import Failure, check_at_once, default_at_once, reason_of, run_together
from tasks.sweeps.search import Between, OneOf, SearchConfig, Study, corners, parse_space, understood
from tasks.sweeps.variants import Asked, Prepared, training_name
from tasks.yaml_config import read_config
from tests.tasks.toy import write_experiment

GRID = ["training.seed=1,2", "training.adapter.rank=4,16"]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDXL_FLOWS_STORE", str(tmp_path / "store"))
    return write_experiment(tmp_path / "toy")


def variants(*texts: str, configs: tuple[str, ...] = ("a.yaml",)) -> list[Variant]:
    return variants_of([Path(config) for config in configs], parse_grid(texts))


def test_every_combination_is_there_once() -> None:
    found = variants(*GRID, configs=("lora.yaml", "x/dora.yaml"))
    assert [one.name for one in found[:3]] == [
        "lora: seed=1, rank=4",
        "lora: seed=1, rank=16",
        "lora: seed=2, rank=4",
    ]
    assert len({one.name for one in found}) == len({one.slug for one in found}) == 8
    assert [one.group for one in found[:2]] == ["lora: rank=4", "lora: rank=16"]
    assert found[0].overrides == ["training.seed=1", "training.adapter.rank=4"]


def test_long_names_stay_different() -> None:
    found = variants(
        "training.learning_rate=0.0001,0.0002", "training.gradient_accumulation_steps=4", "training.seed=1,2"
    )
    names = {training_name("a-character-for-the-winter-campaign-of-next-year", one.slug) for one in found}
    assert len(names) == 4 and max(map(len, names)) <= 63
    assert all(name.startswith("a-character-for-") for name in names)


def test_values_are_read_as_yaml() -> None:
    grid = parse_grid(["training.learning_rate=1e-4,5e-4", "training.objective={kind: dpo},{kind: sft, a: [1, 2]}"])
    assert grid["training.learning_rate"] == [1e-4, 5e-4]
    assert grid["training.objective"] == [{"kind": "dpo"}, {"kind": "sft", "a": [1, 2]}]
    names = [one.name for one in variants_of([Path("a.yaml")], grid)]
    assert names[0] == "learning_rate=0.0001, objective=dpo"


def test_keys_of_the_same_end_are_told_apart() -> None:
    found = variants("training.adapter.kind=lora,full", "training.objective.kind=diffusion,dpo")
    assert found[0].name == "adapter.kind=lora, objective.kind=diffusion"


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["training.seed"], "expected KEY=VALUE,VALUE"),
        (["training.seed="], "expected KEY=VALUE,VALUE"),
        (["training.seed=1,2", "training.seed=3"], "varied already"),
        (["training.seed=1,1"], "got 1 more than once"),
        (["training.seed=1"], "expected 2 to 500 variants, got 1"),
        (["training.seed=" + ",".join(map(str, range(501)))], "got 501. Vary less at once"),
        (["evaluation.seed=1,2"], "All variants are judged alike"),
        (["trainin.seed=1,2"], "Did you mean 'training'"),
        (["training=1,2"], "such as training.adapter.rank"),
        (["training.seed=[1,2"], "not YAML"),
    ],
)
def test_what_cannot_be_varied_is_refused(texts: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("[", r"\[")):
        variants(*texts)


def test_a_file_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="different CONFIG files"):
        variants("training.seed=1,2", configs=("a.yaml", "./a.yaml"))


def order(config: Path, *grid: str, overrides: tuple[str, ...] = (), search: SearchConfig | None = None) -> Order:
    return Order(Asked((config,), overrides), parse_grid(grid), search)


def test_all_that_is_wrong_is_told_with_the_combinations(config: Path) -> None:
    with pytest.raises(ConfigError) as told:
        check(order(config, "training.adapter.rank=0,4,-1", "training.seed=1,2"))
    first, second = str(told.value).splitlines()
    assert first.startswith("rank=0, seed=1; rank=0, seed=2: ") and "adapter.rank" in first
    assert second.startswith("rank=-1, seed=1; rank=-1, seed=2: ")


def test_what_is_wrong_with_all_is_told_once(config: Path) -> None:
    with pytest.raises(ConfigError) as told:
        check(order(config, "training.seed=1,2", overrides=("training.max_steps=x",)))
    assert str(told.value).startswith(str(config))


def test_a_sweep_judges_what_it_trains(config: Path) -> None:
    with pytest.raises(ConfigError, match="a sweep judges what it trains"):
        order(config, "training.seed=1,2", overrides=("evaluation.candidate=base",))


def test_every_variant_is_the_training_that_run_makes(config: Path) -> None:
    """Only the name is another, which no key holds."""
    prepared: tuple[Prepared, ...] = check(order(config, "training.seed=1,2")).prepared
    alone = read_config(config, ["training.seed=2"])
    assert prepared[1].experiment.config.model_copy(update={"name": alone.name}) == alone
    assert prepared[0].experiment.name != prepared[1].experiment.name


def test_a_choice_is_made_among_all_and_not_in_a_training(config: Path) -> None:
    checked = check(order(config, "training.seed=1,2", overrides=("evaluation.selection={share: 0.5}",)))
    assert checked.judging.evaluation.selection is not None
    assert all(one.experiment.config.evaluation.selection is None for one in checked.prepared)


def test_the_command_makes_the_same_order_again(config: Path) -> None:
    import shlex

    given = order(config, "training.seed=1,2", "training.learning_rate=1e-05,0.1", overrides=("training.max_steps=3",))
    words = shlex.split(command_of(given))
    grids = [words[place + 1] for place, word in enumerate(words) if word == "--grid"]
    assert parse_grid(grids) == given.grid and words[-2:] == ["--set", "training.max_steps=3"]


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("4,8,16", OneOf((4, 8, 16))),
        ("lora,full", OneOf(("lora", "full"))),
        ("100..400", Between(100, 400, False)),
        ("log:1e-5..1e-3", Between(1e-5, 1e-3, True)),
        ("0.1..1", Between(0.1, 1, False)),
    ],
)
def test_ranges_are_understood(asked: str, meant: Between | OneOf) -> None:
    assert understood({"training.x": asked}) == {"training.x": meant}


@pytest.mark.parametrize("asked", ["1", "log:1,2", "1..1", "2..1", "log:0..1", "a..b", "1..2..3"])
def test_what_is_no_range_is_refused(asked: str) -> None:
    with pytest.raises(ConfigError, match=r"--search training\.x: expected"):
        understood({"training.x": asked})


def test_corners_have_every_end_and_every_value() -> None:
    found = corners({"training.a": "1..9", "training.b": "x,y,z"})
    assert {dict(one)["training.a"] for one in found} == {1, 9}
    assert {dict(one)["training.b"] for one in found} == {"x", "y", "z"}


SEARCH = SearchConfig(
    trials=9, space=parse_space(["training.learning_rate=log:1e-5..1e-1", "training.adapter.rank=2,4"])
)


def value_of(settings: tuple[tuple[str, Json], ...]) -> float:
    values = dict(settings)
    return -abs(values["training.learning_rate"] - 0.01) + 0.001 * values["training.adapter.rank"]


def searched(study: Study, trials: int) -> list[tuple[tuple[str, Json], ...]]:
    while study.finished < trials:
        for trial in study.interrupted() or [study.propose()]:
            study.tell(trial, value_of(trial.settings))
    return [trial.settings for trial in study.ended()]


def test_a_search_that_was_killed_goes_on_as_it_would_have(tmp_path: Path) -> None:
    whole = searched(Study(tmp_path / "whole.jsonl", SEARCH), 9)
    assert len(set(whole)) > 5
    for _ in range(4):
        study = Study(tmp_path / "parts.jsonl", SEARCH)
        searched(study, min(8, study.finished + 2))
    Study(tmp_path / "parts.jsonl", SEARCH).propose()  # and killed while that trains
    with (tmp_path / "parts.jsonl").open("ab") as file:
        file.write(b'{"op_code": 5, "half a')
    (tmp_path / "parts.jsonl.lock").touch()
    last = Study(tmp_path / "parts.jsonl", SEARCH)
    assert len(last.interrupted()) == 1
    assert searched(last, 9) == whole


def test_a_failed_trial_is_not_tried_again(tmp_path: Path) -> None:
    study = Study(tmp_path / "x.jsonl", SEARCH)
    study.tell_failed(study.propose(), "the loss is not finite")
    again = Study(tmp_path / "x.jsonl", SEARCH)
    assert again.finished == 1 and [trial.failed for trial in again.ended()] == ["the loss is not finite"]


def test_the_journal_is_plain_json(tmp_path: Path) -> None:
    searched(Study(tmp_path / "x.jsonl", SEARCH), 2)
    assert all(json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines())


def test_without_optuna_the_way_to_it_is_told(monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"pip install 'sdxl-flows\[optuna\]'"):
        check(order(config, search=SEARCH))


def test_a_search_is_judged_on_other_prompts(config: Path) -> None:
    search = SEARCH.model_copy(update={"objective": "clip_i"})
    (config.parent / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"p {n}"}) + "\n" for n in range(12)))
    checked = check(order(config, search=search))
    assert checked.judging.evaluation.selection is not None and checked.metric == "clip_i"
    more = check(order(config, search=search.model_copy(update={"trials": 30})))
    assert checked.journal == more.journal, "more trials go on with the same study"
    other = check(order(config, search=search.model_copy(update={"seed": 1})))
    assert other.journal != checked.journal


def test_one_config_and_one_way_is_searched(config: Path) -> None:
    with pytest.raises(ConfigError, match="expected --grid or --optuna, got both"):
        check(order(config, "training.seed=1,2", search=SEARCH))


CALL = Call(Stage(kind="train", version="1", build=lambda job: {}), "train", {})
REF = Ref(kind="train", key="0" * 32, digest="0" * 64)


@pytest.mark.parametrize("at_once", [1, 3])
def test_one_that_fails_leaves_the_others_alone(at_once: int) -> None:
    def run(call: Call) -> Handle:
        if call.label == "b":
            raise TrainerFailed("the loss is not finite; all it said is in /some/where")
        return REF

    calls = {name: Call(CALL.stage, name, {}) for name in "abcd"}
    assert run_together(calls, run, at_once) == {"a": REF, "b": Failure("the loss is not finite"), "c": REF, "d": REF}


def test_what_others_are_at_comes_last() -> None:
    """So two machines that begin the same sweep meet in its middle."""
    begun: list[str] = []
    elsewhere = {"a", "b"}

    def run(call: Call) -> Handle:
        begun.append(call.label)
        elsewhere.discard("b")
        return REF

    calls = {name: Call(CALL.stage, name, {}) for name in "abcd"}
    assert [*run_together(calls, run, 1, lambda call: call.label in elsewhere)] == [*calls]
    assert begun == ["c", "b", "d", "a"]


@pytest.mark.parametrize("error", [TrainerPreempted("stop"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("at_once", [1, 2])
def test_what_concerns_all_ends_all(error: BaseException, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[bool] = []
    monkeypatch.setattr("tasks.sweeps.running.stop_trainers", lambda: stopped.append(True))

    def run(call: Call) -> Handle:
        raise error

    with pytest.raises(type(error)):
        run_together({"a": CALL, "b": CALL}, run, at_once)
    assert bool(stopped) == (at_once > 1)


def test_reasons_are_one_line() -> None:
    assert reason_of(ValueError("one\ntwo")) == "one" and reason_of(ValueError()) == "ValueError"


def test_as_many_at_once_as_there_are_gpus_for(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_config(config)
    cpu = whole.model_copy(update={"runtime": RuntimeConfig(device="cpu")})
    monkeypatch.setenv("SDXL_FLOWS_CPU_SLOTS", "4")
    assert default_at_once(cpu) == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    monkeypatch.setattr("tasks.devices.present_gpus", lambda system: [])
    gpus = whole.model_copy(update={"runtime": RuntimeConfig(device="cuda")})
    assert default_at_once(gpus) == 4
    pairs = gpus.model_copy(update={"training": gpus.training.model_copy(update={"processes": 2})})
    assert default_at_once(pairs) == 2


def test_a_limit_of_time_goes_with_one_at_a_time(config: Path) -> None:
    limited = RuntimeConfig(timeout_hours=TimeoutHours(train=1))
    whole = read_config(config).model_copy(update={"runtime": limited})
    check_at_once(whole, 1)
    with pytest.raises(ConfigError, match=r"--parallel: expected 1"):
        check_at_once(whole, 2)


def test_nothing_is_written_by_a_check(config: Path, tmp_path: Path) -> None:
    check(order(config, "training.seed=1,2"))
    assert not list(ArtifactStore(tmp_path / "store").manifests()) and not (tmp_path / "store" / "sweeps").exists()
