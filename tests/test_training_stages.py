"""What a stage starts from, what learns in it, and what its loss is."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from sfavivit.errors import TrainingError, UsageError
from sfavivit.models.vivit import Block, SfaVivit, interpolate_positions
from tests.models.reference_hybrid import hybrid_weights
from tests.training_files import one_thread, toy_recipe
from training.clips import Clip, ClipBatch
from training.config import OptimiserConfig, Recipe, RegularisationConfig, StageConfig
from training.hardware import make_fabric
from training.learner import ClipLearner, clip_losses, mix
from training.optimiser import Schedule, build_optimiser, epoch_schedule
from training.stages import check_start, stage_model
from training.trainer import StepResult, Trainer, saved_extra

__all__ = ["one_thread"]  # for every test here


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return toy_recipe(tmp_path_factory.mktemp("recipe"))


@pytest.fixture(scope="module")
def stage_one(recipe: Recipe) -> SfaVivit:
    return stage_model(recipe, recipe.stages[0], None, None)


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_stage_two_goes_on_from_stage_one(recipe: Recipe, stage_one: SfaVivit) -> None:
    model = stage_model(recipe, recipe.stages[1], stage_one, None)
    assert same(model.spatial, stage_one.spatial)
    assert not any(parameter.requires_grad for parameter in model.spatial.parameters())
    assert same(model.temporal.encoder.blocks, stage_one.temporal.encoder.blocks)
    assert same(model.temporal.classifiers, stage_one.temporal.classifiers)
    assert model.dims.adapter is not None and model.dims.max_frames == 16
    expected = interpolate_positions(stage_one.temporal.encoder.pos, (2, 1), (8, 1))
    torch.testing.assert_close(model.temporal.encoder.pos, expected)
    frames = torch.randint(0, 256, (2, 4, 32, 32, 3), dtype=torch.uint8)
    short = stage_model(recipe, recipe.stages[1].model_copy(update={"frames": 4}), stage_one, None)
    torch.testing.assert_close(short(frames)[""], stage_one(frames)[""], msg="the adapter is the identity")


def test_a_chain_keeps_its_adapter(recipe: Recipe, stage_one: SfaVivit) -> None:
    second = stage_model(recipe, recipe.stages[1], stage_one, None)
    with torch.no_grad():
        for parameter in second.temporal.adapter.parameters():
            parameter.fill_(0.25)
    third = stage_model(recipe, recipe.stages[1].model_copy(update={"frames": 64}), second, None)
    assert same(third.temporal.adapter, second.temporal.adapter)
    assert third.dims.max_frames == 64


# The rows of the paper's table: what is trained on 16 frames here, and from where.
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {"spatial": "image", "temporal": "random"},
    "frozen without initialisation": {"spatial": "image", "temporal": "random", "frozen": True},
    "random temporal": {"temporal": "random", "frozen": True, "adapter": True},
    "initialised and not frozen": {},
}


def variant(name: str, fields: dict[str, Any]) -> StageConfig:
    return StageConfig(name=name.replace(" ", "-"), frames=16, **fields)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_ablations_of_the_paper(name: str, recipe: Recipe, stage_one: SfaVivit, tmp_path: Path) -> None:
    image = image_checkpoint(tmp_path / "image.safetensors", stage_one)
    stage = variant(name, VARIANTS[name])
    model = stage_model(recipe, stage, stage_one, image)
    assert same(model.temporal.encoder.blocks, stage_one.temporal.encoder.blocks) == (
        stage.temporal == "previous"
    )
    assert same(model.spatial, stage_one.spatial) == (stage.spatial == "previous")
    learns = {parameter.requires_grad for parameter in model.spatial.parameters()}
    assert learns == {not stage.frozen}
    assert all(parameter.requires_grad for parameter in model.temporal.parameters())
    assert (model.dims.adapter is not None) == stage.adapter
    if stage.spatial == "image":
        assert all((parameter == 0.5).all() for parameter in model.spatial.encoder.blocks.parameters())
    assert same(model, stage_model(recipe, stage, stage_one, image)), "random numbers are the seed's"


def image_checkpoint(path: Path, model: SfaVivit) -> Path:
    """A ViT in timm naming that fits the spatial half, all weights 0.5."""
    dims, encoder = model.dims, model.spatial.encoder
    shapes = {
        "cls_token": (1, 1, dims.hidden_size),
        "pos_embed": tuple(encoder.pos.shape),
        "patch_embed.proj.weight": (dims.hidden_size, 3, dims.patch_size, dims.patch_size),
        "patch_embed.proj.bias": (dims.hidden_size,),
        **{f"blocks.{name}": tuple(value.shape) for name, value in encoder.blocks.named_parameters()},
        **{f"norm.{name}": tuple(value.shape) for name, value in encoder.norm.named_parameters()},
    }
    save_file({name: torch.full(shape, 0.5) for name, shape in shapes.items()}, path)
    return path


def test_other_outputs_start_with_classifiers_of_their_own(recipe: Recipe, stage_one: SfaVivit) -> None:
    outputs = recipe.model.model_copy(update={"outputs": {"verb": 3, "noun": 4}})
    epic = recipe.model_copy(update={"model": outputs})
    model = stage_model(epic, epic.stages[1], stage_one, None)
    assert same(model.temporal.encoder.blocks, stage_one.temporal.encoder.blocks)
    assert [tuple(value.shape) for value in model.temporal.classifiers.state_dict().values()] == [
        (3, 32),
        (3,),
        (4, 32),
        (4,),
    ]


def test_what_a_stage_lacks_is_said_before_it_starts(recipe: Recipe, stage_one: SfaVivit) -> None:
    full = variant("full", VARIANTS["full"])
    with pytest.raises(UsageError, match="'stage2' starts from the one before: give .* --initial"):
        check_start(recipe.stages[1:], None, None)
    with pytest.raises(UsageError, match="'full' starts from an image ViT: give --image-checkpoint"):
        check_start([*recipe.stages, full], None, None)
    other = SfaVivit(replace(stage_one.dims, hidden_size=64))
    with pytest.raises(UsageError, match="'stage2' cannot start from a model of other dimensions") as caught:
        stage_model(recipe, recipe.stages[1], other, None)
    assert "\n" not in str(caught.value)


def batch(clips: int = 4, frames: int = 16, outputs: tuple[str, ...] = ("",)) -> ClipBatch:
    rng = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (clips, frames, 32, 32, 3), dtype=torch.uint8, generator=rng)
    return ClipBatch(
        [
            Clip(pictures[k], dict.fromkeys(outputs, k % 2), 0.1 + 0.2 * k, valid=True, broken=())
            for k in range(clips)
        ]
    )


def cpu_trainer(learner: torch.nn.Module, **config: Any) -> Trainer:
    fabric = make_fabric()
    optimiser = OptimiserConfig(learning_rate=0.1, epochs=1, batch_size=4, **config)
    return Trainer(fabric, learner, optimiser, Schedule(10, 0), seed=0)


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_the_frozen_half_takes_no_memory_for_training(
    recipe: Recipe, stage_one: SfaVivit, optimiser: str
) -> None:
    model = stage_model(recipe, recipe.stages[1], stage_one, None)
    learner = ClipLearner(model, RegularisationConfig(stochastic_depth=0.5))
    trainer = cpu_trainer(learner, name=optimiser)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert kept_by_spatial_half(model, lambda: list(trainer.steps([[batch()]] * 2))) == 0
    learned = dict(model.temporal.named_parameters())
    assert all(parameter.grad is None for parameter in model.spatial.parameters())
    in_optimiser = [p for group in trainer.optimiser.param_groups for p in group["params"]]
    assert {id(p) for p in in_optimiser} == {id(p) for p in learned.values()}
    assert len(trainer.optimiser.optimizer.state) == len(learned)
    for name, value in model.state_dict().items():  # the adapter's first layer learns from step 2 on
        assert torch.equal(value, before[name]) == name.startswith("spatial."), name


@pytest.mark.parametrize("stage", [0, 1])
def test_a_stage_learns(recipe: Recipe, stage_one: SfaVivit, stage: int) -> None:
    model = stage_model(recipe, recipe.stages[stage], stage_one, None)
    clips = batch()
    clips.frames = clips.frames[:, : recipe.stages[stage].frames]
    trainer = cpu_trainer(ClipLearner(model, RegularisationConfig(stochastic_depth=0.1)), name="adamw")
    trainer.config = trainer.config.model_copy(update={"learning_rate": 0.003})
    trainer.schedule = Schedule(25, 5)
    figures = list(trainer.steps([[clips]] * 25))
    assert [each.step for each in figures] == list(range(25))
    assert figures[-1].loss < 0.3 * figures[0].loss
    loss, accuracy = trainer.evaluate([clips, clips])
    assert accuracy == 1 and loss < 0.3


def test_a_half_that_learns_does_keep_activations(recipe: Recipe, stage_one: SfaVivit) -> None:
    """The measure of the test above sees what it is meant to see."""
    model = stage_model(recipe, variant("full", {"temporal": "random"}), stage_one, None)
    learner = ClipLearner(model, RegularisationConfig())
    assert kept_by_spatial_half(model, lambda: learner(batch())) > 20


def kept_by_spatial_half(model: SfaVivit, run: Callable[[], object]) -> int:
    """Tensors that autograd keeps while the spatial half computes."""
    within, kept = False, 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += within
        return tensor

    def enter(*_: object) -> None:
        nonlocal within
        within = True

    def leave(*_: object) -> None:
        nonlocal within
        within = False

    hooks = [model.spatial.register_forward_pre_hook(enter), model.spatial.register_forward_hook(leave)]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    for hook in hooks:
        hook.remove()
    return kept


def test_a_frozen_half_is_computed_as_in_use(recipe: Recipe, stage_one: SfaVivit) -> None:
    model = stage_model(recipe, recipe.stages[1], stage_one, None)
    learner = ClipLearner(model, RegularisationConfig(stochastic_depth=0.9)).train()
    assert model.temporal.training and not model.spatial.training
    frames = batch().frames
    assert torch.equal(model.spatial(frames), model.spatial(frames))
    assert not torch.equal(model(frames)[""], model(frames)[""])
    assert learner.eval() is learner and torch.equal(model(frames)[""], model(frames)[""])


def test_stochastic_depth_grows_with_the_layer_and_keeps_the_mean() -> None:
    block = Block(8, 2, 16).train()
    x = torch.randn(1, 3, 8)
    with torch.no_grad():
        branch = block.attn(block.norm1(x))
        block.drop_rate = 0.25
        thinned = block._drop_branch(branch.expand(4000, -1, -1))
    kept = thinned.abs().sum((1, 2)) > 0
    assert 0.71 < kept.float().mean() < 0.79
    torch.testing.assert_close(thinned[kept][0], branch[0] / 0.75)
    assert torch.equal(block.eval()._drop_branch(branch), branch)


def test_stochastic_depth_rates(recipe: Recipe) -> None:
    model = stage_model(toy_with_layers(recipe, 5), recipe.stages[0], None, None).set_stochastic_depth(0.2)
    rates = [block.drop_rate for block in model.spatial.encoder.blocks if isinstance(block, Block)]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    assert [block.drop_rate for block in model.temporal.encoder.blocks] == pytest.approx([0, 0.2])


def toy_with_layers(recipe: Recipe, layers: int) -> Recipe:
    model = recipe.model.model_copy(update={"spatial_layers": layers})
    return recipe.model_copy(update={"model": model})


def test_mixup_is_that_of_its_paper() -> None:
    values, shares = torch.randn(5, 2, 3), torch.tensor([0.3, 0.9, 0.6, 0.1, 0.2])
    mixed = mix(values, shares)
    for own, other, share in ((0, 1, 0.3), (1, 0, 0.3), (2, 3, 0.6), (3, 2, 0.6)):
        torch.testing.assert_close(mixed[own], share * values[own] + (1 - share) * values[other])
    assert torch.equal(mixed[4], values[4])


@given(st.floats(0, 0.9), st.floats(0, 1), st.integers(2, 7))
def test_losses_are_the_cross_entropies_of_smoothed_and_mixed_targets(
    smoothing: float, share: float, classes: int
) -> None:
    rng = np.random.default_rng(classes)
    logits, labels = rng.normal(0, 3, (2, classes)), rng.integers(classes, size=2)
    ours = clip_losses(
        torch.from_numpy(logits).float(), torch.from_numpy(labels), torch.tensor([share, 0.5]), smoothing
    )
    for k in range(2):
        logs = logits[k] - math.log(np.exp(logits[k]).sum())
        target = np.full(classes, smoothing / classes)
        target[labels[k]] += (1 - smoothing) * share
        target[labels[1 - k]] += (1 - smoothing) * (1 - share)
        assert ours[k].item() == pytest.approx(-(target * logs).sum(), rel=1e-4, abs=1e-4)


def test_two_outputs_are_right_together_and_add_their_losses(recipe: Recipe) -> None:
    outputs = recipe.model.model_copy(update={"outputs": {"verb": 3, "noun": 4}})
    model = stage_model(recipe.model_copy(update={"model": outputs}), recipe.stages[0], None, None)
    clips = batch(clips=6, frames=4, outputs=("verb", "noun"))
    clips.valid[5] = False
    learner = ClipLearner(model, RegularisationConfig(label_smoothing=0.3, mixup=0.4)).eval()
    result = learner(clips)
    logits = model(clips.frames)
    expected = sum(
        torch.nn.functional.cross_entropy(logits[name][:5], clips.labels[name][:5]) for name in logits
    )
    right = [logits[name].argmax(1)[:5] == clips.labels[name][:5] for name in logits]
    torch.testing.assert_close(result.loss, expected)
    assert result.correct.tolist() == [int(each.sum()) for each in (right[0] & right[1], *right)]
    assert result.examples == 5
    assert learner.train()(clips).loss != result.loss, "smoothed and mixed in training"


def test_learning_rate_warms_up_and_decays_to_nothing() -> None:
    config = OptimiserConfig(learning_rate=0.1, epochs=30, batch_size=128)
    schedule = epoch_schedule(config, 40)
    assert (schedule.steps, schedule.warmup_steps) == (1200, 100)
    for step in (0, 1, 50, 99, 100, 600, 1199):
        expected = min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / 1200))
        assert schedule.factor(step) == pytest.approx(expected)
    assert schedule.factor(1199) < 1e-5
    assert Schedule(10, 0).factor(0) == 1


def test_sgd_has_the_momentum_of_the_recipe() -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    optimiser = build_optimiser([weight], OptimiserConfig(learning_rate=0.1, epochs=1, batch_size=1))
    for _ in range(2):
        weight.grad = torch.ones(1)
        optimiser.step()
    assert weight.item() == pytest.approx(1 - 0.1 - 0.1 * 1.9)


class Quadratic(torch.nn.Module):
    """Loss (weight - target)^2, or not a number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, targets: Tensor) -> StepResult:
        return StepResult(
            (self.weight - targets).square().mean(), targets.sum() * 0, torch.tensor(len(targets))
        )


def test_parts_of_a_batch_give_the_step_of_the_whole() -> None:
    whole, parts = Quadratic(), Quadratic()
    one = list(cpu_trainer(whole, clip_norm=None).steps([[torch.tensor([1.0, 2, 3, 6])]]))
    two = list(cpu_trainer(parts, clip_norm=None).steps([[torch.tensor([1.0, 2]), torch.tensor([3.0, 6])]]))
    assert one[0].loss == two[0].loss == 12.5
    assert whole.weight.item() == pytest.approx(parts.weight.item()) == pytest.approx(0.1 * 6)


def test_gradients_are_clipped_all_together() -> None:
    learner = Quadratic()
    list(cpu_trainer(learner).steps([[torch.tensor([30.0])]]))
    assert learner.weight.item() == pytest.approx(0.1), "gradient 60, clipped to 1"


def test_a_loss_that_is_no_number_ends_the_run_before_it_spoils_the_weights() -> None:
    learner = Quadratic()
    with pytest.raises(TrainingError, match="the loss is nan .* in step 0 .*lower the learning rate"):
        list(cpu_trainer(learner).steps([[torch.tensor([math.nan])]]))
    assert learner.weight.item() == 0


class InfiniteSlope(Quadratic):
    """Loss sqrt(0): a number, whose derivative is none."""

    def forward(self, targets: Tensor) -> StepResult:
        return super().forward(targets)._replace(loss=self.weight.sqrt().sum())


def test_a_gradient_that_is_no_number_ends_the_run_before_it_spoils_the_weights() -> None:
    learner = InfiniteSlope()
    with pytest.raises(TrainingError, match="the loss is 0.0 and its gradient inf long in step 0"):
        list(cpu_trainer(learner).steps([[torch.ones(1)]]))
    assert learner.weight.item() == 0


def test_an_evaluation_of_nothing_is_an_error(recipe: Recipe, stage_one: SfaVivit) -> None:
    clips = batch(frames=4)
    clips.valid[:] = False
    with pytest.raises(TrainingError, match="nothing to measure on"):
        cpu_trainer(ClipLearner(stage_one, RegularisationConfig())).evaluate([clips])


def test_a_state_that_is_damaged_is_one_line(tmp_path: Path) -> None:
    trainer = cpu_trainer(Quadratic())
    list(trainer.steps([[torch.ones(2)]]))
    state = tmp_path / "state.ckpt"
    trainer.save(state, {"rows": []})
    again = cpu_trainer(Quadratic())
    again.load(state)
    assert again.step == 1 and saved_extra(state) == {"rows": []}
    content = state.read_bytes()
    for damaged in (b"", content[: len(content) // 2], b"\x80\x04junk"):
        state.write_bytes(damaged)
        with pytest.raises(
            TrainingError, match="cannot be resumed from: .*; remove it to start again"
        ) as caught:
            cpu_trainer(Quadratic()).load(state)
        assert "\n" not in str(caught.value)
        with pytest.raises(TrainingError, match="cannot be resumed from"):
            saved_extra(state)
    with pytest.raises(TrainingError, match="cannot be written"):
        trainer.save(state / "state.ckpt", {})


def test_both_stages_from_an_image_hybrid(tmp_path: Path) -> None:
    """Stage I trains the ResNet too; stage II freezes it, keeps no activation of it and changes nothing."""
    recipe = toy_recipe(tmp_path, "model.size=R-tiny", "model.patch_size=8", "stages.0.spatial=image")
    weights = hybrid_weights((1, 1), 4)
    weights = {
        name: value for name, value in weights.items() if not name.startswith(("blocks.2", "blocks.3"))
    }
    save_file(weights, tmp_path / "hybrid.safetensors")
    first = stage_model(recipe, recipe.stages[0], None, tmp_path / "hybrid.safetensors")
    assert first.spatial.resnet is not None
    stem = weights["patch_embed.backbone.stem.conv.weight"]
    assert torch.equal(first.spatial.resnet.stem.conv.weight, stem)
    before = copy.deepcopy(first.spatial.resnet)
    clips = batch()
    clips.frames = clips.frames[:, :4]
    list(cpu_trainer(ClipLearner(first, RegularisationConfig(stochastic_depth=0.1))).steps([[clips]] * 2))
    pairs = zip(before.parameters(), first.spatial.resnet.parameters(), strict=True)
    assert not any(torch.equal(*pair) for pair in pairs)

    second = stage_model(recipe, recipe.stages[1], first, None)
    assert same(second.spatial, first.spatial)
    frozen = copy.deepcopy(second.spatial)
    trainer = cpu_trainer(ClipLearner(second, RegularisationConfig()))
    assert kept_by_spatial_half(second, lambda: list(trainer.steps([[batch()]]))) == 0
    assert same(second.spatial, frozen)
    assert all(parameter.grad is None for parameter in second.spatial.parameters())
    assert not list(second.spatial.buffers()), "no running statistics that training could move"
