"""Recipes against Table 1 of the paper, and errors in recipes."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfavivit.errors import UsageError
from training.config import RECIPES, Recipe, load_recipe

# Table 1 of arXiv 2306.04822, a column a dataset.
TABLE = """
                   kinetics400 kinetics600 moments_in_time epic_kitchens something_something_v2 something_else
base learning rate 0.1         0.1         0.25            0.5           0.5                    0.5
epochs             30          30          10              50            35                     35
colour jitter      0.8         0.8         0.8             -             -                      -
randaugment layers -           -           -               2             2                      -
magnitude          -           -           -               15            20                     -
stochastic depth   -           -           -               0.2           0.3                    -
label smoothing    -           -           -               0.2           0.3                    -
mixup              -           -           -               0.1           0.3                    -
"""
DATASETS = TABLE.split("\n")[1].split()


def row(title: str) -> list[float]:
    line = next(line for line in TABLE.splitlines() if line.startswith(title))
    return [0.0 if cell == "-" else float(cell) for cell in line.removeprefix(title).split()]


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_number_of_table_1(dataset: str) -> None:
    recipe, column = load_recipe(dataset), DATASETS.index(dataset)
    optimiser, views, against = recipe.optimiser, recipe.augmentation, recipe.regularisation
    randaugment = views.randaugment
    found = {
        "base learning rate": optimiser.learning_rate,
        "epochs": optimiser.epochs,
        "colour jitter": views.colour_jitter,
        "randaugment layers": randaugment.layers if randaugment else 0,
        "magnitude": randaugment.magnitude if randaugment else 0,
        "stochastic depth": against.stochastic_depth,
        "label smoothing": against.label_smoothing,
        "mixup": against.mixup,
    }
    assert found == {title: row(title)[column] for title in found}
    assert (optimiser.name, optimiser.momentum, optimiser.batch_size) == ("sgd", 0.9, 128)
    assert optimiser.warmup_epochs == 2.5
    assert (views.random_crop, views.flip, views.scale_jitter) == (1.0, 0.5, 1.0)
    assert views.scale_range == (0.9, 1.33)
    assert [(stage.frames, stage.frozen, stage.adapter) for stage in recipe.stages] == [
        (8, False, False),
        (128, True, True),
    ]
    assert (recipe.stages[0].spatial, recipe.stages[0].temporal) == ("image", "random")
    assert (recipe.stages[1].spatial, recipe.stages[1].temporal) == ("previous", "previous")


def test_there_are_six_recipes_with_the_outputs_of_their_datasets() -> None:
    outputs = {path.stem: load_recipe(path.stem).model.outputs for path in RECIPES.glob("*.toml")}
    assert outputs == {
        "kinetics400": {"": 400},
        "kinetics600": {"": 600},
        "moments_in_time": {"": 339},
        "epic_kitchens": {"verb": 97, "noun": 300},
        "something_something_v2": {"": 174},
        "something_else": {"": 174},
    }
    assert sorted(outputs) == sorted(DATASETS)


@pytest.mark.parametrize(("size", "hidden"), [("B", 768), ("L", 1024), ("H", 1280), ("g", 1408)])
def test_every_size_fits_every_recipe(size: str, hidden: int) -> None:
    for dataset in DATASETS:
        recipe = load_recipe(dataset, [f"model.size={size}"])
        dims = recipe.model.dimensions(recipe.sampling.crop_size, 128)
        assert (dims.hidden_size, dims.max_frames, dims.adapter) == (hidden, 128, None)


def test_settings_change_single_values() -> None:
    recipe = load_recipe(
        "kinetics400",
        ["optimiser.learning_rate=0.01", "stages.1.frames=64", "stages.1.epochs=5", "model.size=tiny"],
    )
    assert recipe.optimiser.learning_rate == 0.01
    assert recipe.optimiser_of(recipe.stages[0]).epochs == 30
    assert (recipe.stages[1].frames, recipe.optimiser_of(recipe.stages[1]).epochs) == (64, 5)
    assert recipe.model.size == "tiny"
    assert recipe.model_copy(update={"seed": 0}) == recipe


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optimizer.learning_rate=1", "optimizer: Extra inputs"),
        ("optimiser.lr=1", "optimiser.lr: Extra inputs"),
        ("optimiser.learning_rate=fast", "optimiser.learning_rate: .* number .*'fast'"),
        ("optimiser.learning_rate=inf", "optimiser.learning_rate"),
        ("optimiser.epochs=1.5", "optimiser.epochs"),
        ("optimiser.epochs=0", "optimiser.epochs"),
        ("augmentation.flip=1.1", "augmentation.flip"),
        ("augmentation.scale_range=[1.3,0.9]", "scale_range must be"),
        ("augmentation.scale_range=[0.5,0.9]", "less than crop_size 224"),
        ("sampling.crop_size=300", "crop size 300"),
        ("sampling.depth=3", "sampling"),
        ("stages=[]", "stages"),
        ("stages.1.name=stage1", "names of their own"),
        ("stages.1.name=../x", "stages.1.name"),
        ("stages.5.frames=8", "no such place"),
        ("stages.first.frames=8", "no such place"),
        ("name.x=8", "no such place"),
        ("epochs", "write key.key=value"),
        ("=3", "write key.key=value"),
    ],
)
def test_a_wrong_setting_is_one_line(setting: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load_recipe("kinetics400", [setting])
    assert "\n" not in str(caught.value)


def test_mixup_needs_pairs() -> None:
    with pytest.raises(UsageError, match="batch_size must be even, got 31"):
        load_recipe("epic_kitchens", ["optimiser.batch_size=31"])


def test_a_recipe_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ")
    for name, message in {
        "kinetics": "no recipe 'kinetics'.* kinetics400, kinetics600",
        str(tmp_path / "absent.toml"): "no recipe",
        str(broken): "cannot be read",
        str(tmp_path): "cannot be read: Is a directory",
    }.items():
        with pytest.raises(UsageError, match=message):
            load_recipe(name)
    copy = tmp_path / "copy.toml"
    copy.write_text((RECIPES / "epic_kitchens.toml").read_text())
    assert load_recipe(str(copy)) == load_recipe("epic_kitchens")


def test_a_recipe_survives_json() -> None:
    recipe = load_recipe("something_something_v2")
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
