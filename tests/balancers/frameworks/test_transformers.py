"""A balancer in the Trainer of Hugging Face: resumed as if never stopped, in step with it, its weights logged."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertForPreTraining, Trainer, TrainerCallback, TrainingArguments, set_seed

from balancers import BalancerWarning, GradNorm, Uncertainty
from balancers.frameworks.transformers import BalancerCallback
from balancers.torchjd_methods import torchjd_balancer

pytestmark = pytest.mark.filterwarnings("ignore:.*use_reentrant", "ignore:`gradient_checkpointing` is deprecated")

TASKS = ["word", "next"]
ROWS, BATCH, PARTS = 26, 4, 3  # 7 batches in an epoch: with three in a step the last step has one


class Pretraining(Trainer):
    """BERT's own two tasks: words that were masked, read out by the embeddings themselves, and the next sentence."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        out = model(inputs["input_ids"])
        losses = {
            "word": cross_entropy(out.prediction_logits.flatten(0, 1), inputs["labels"].flatten()),
            "next": cross_entropy(out.seq_relationship_logits, inputs["next_sentence_label"]),
        }
        loss = self.balancer(losses)
        return (loss, {"losses": torch.stack(list(losses.values()))}) if return_outputs else loss


def rows():
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(4, 40, (ROWS, 12), generator=generator)
    masked = torch.where(torch.rand(words.shape, generator=generator) < 0.2, 3, words)
    columns = {"input_ids": masked, "labels": words, "next_sentence_label": words[:, 0] % 2}
    return [{name: column[row] for name, column in columns.items()} for row in range(ROWS)]


def trainer_of(folder, recipe=GradNorm.robust, callbacks=(), add=True, tasks=TASKS, **settings):
    """A small BERT with dropout and tied embeddings, whose layers are computed again in the backward pass."""
    set_seed(0)
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertForPreTraining(BertConfig(vocab_size=40, hidden_size=16, **layers))
    given = {"num_train_epochs": 2, "per_device_train_batch_size": BATCH, "gradient_accumulation_steps": PARTS}
    given |= {"gradient_checkpointing": True, "learning_rate": 1e-3, "warmup_steps": 2, "logging_steps": 1}
    given |= {"save_strategy": "steps", "save_steps": 1, "report_to": [], "disable_tqdm": True, "use_cpu": True}
    arguments = TrainingArguments(str(folder), **given | settings)
    trainer = Pretraining(model, arguments, train_dataset=rows(), eval_dataset=rows()[:8], callbacks=list(callbacks))
    trainer.balancer = recipe(tasks, model.bert.encoder.layer[-1].output.dense)
    if add:
        BalancerCallback(trainer.balancer).add_to(trainer)
    trainer.model_accepts_loss_kwargs = False
    return trainer


def assert_same(one, two):
    assert torch.equal(one.balancer.weights, two.balancer.weights)
    for kind in ("arithmetic", "geometric"):
        assert torch.equal(one.balancer.mean_weights(kind), two.balancer.mean_weights(kind))
    assert one.balancer.step == two.balancer.step > 0
    for left, right in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert torch.equal(left, right)


@pytest.mark.filterwarnings("ignore:.*dwa.* moved its weights")
@pytest.mark.parametrize(
    ("recipe", "steps"),
    [(GradNorm.robust, (2, 3)), (lambda tasks, _: torchjd_balancer("dwa", tasks), (3,))],
    ids=["GradNorm", "a method that counts epochs"],
)
def test_resumed_after_a_step_training_is_as_if_never_stopped(recipe, steps, tmp_path):
    """In the middle of an epoch, and after its last step, which has one batch in place of three."""
    whole = trainer_of(tmp_path / "whole", recipe)
    whole.train()
    assert whole.state.global_step == 6
    tied = whole.model.cls.predictions.decoder.weight
    assert tied is whole.model.bert.embeddings.word_embeddings.weight
    for step in steps:
        again = trainer_of(tmp_path / f"{step}", recipe)
        again.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert_same(again, whole)


def test_resumed_in_mixed_precision_with_callbacks_restored(tmp_path):
    settings = {"bf16": True, "restore_callback_states_from_checkpoint": True}
    whole = trainer_of(tmp_path / "whole", **settings)
    whole.train()
    again = trainer_of(tmp_path / "again", **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert_same(again, whole)


def test_w_moves_once_in_a_step_of_the_optimizer(tmp_path):
    trainer = trainer_of(tmp_path, save_strategy="no")
    trainer.train()
    assert trainer.balancer.step == trainer.state.global_step == 6
    assert trainer.balancer.path.name == "one pass"


class Reporter(TrainerCallback):
    """Reports as the integrations do, which the Trainer asks before the callbacks of users."""

    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append(dict(logs))


def test_weights_are_logged_with_the_loss_to_those_who_report(tmp_path):
    reporter = Reporter()
    trainer = trainer_of(tmp_path, callbacks=[reporter], save_strategy="no", eval_strategy="epoch")
    trainer.train()
    for logs in (reporter.logs, trainer.state.log_history):
        told = [row for row in logs if "loss" in row]
        assert len(told) == 6
        assert {task: told[-1][f"w/{task}"] for task in TASKS} == trainer.balancer.as_dict()
        assert not any("w/word" in row for row in logs if "loss" not in row)


def test_evaluation_moves_nothing(tmp_path):
    trainer = trainer_of(tmp_path, save_strategy="no")
    trainer.evaluate()
    assert trainer.balancer.step == 0


def told(function):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        function()
    return [str(one.message) for one in found if issubclass(one.category, BalancerWarning)]


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (lambda tasks, W: GradNorm.robust(tasks, W, accumulate=2), "accumulate: expected 3, as `gradient"),
        (lambda tasks, _: Uncertainty(tasks), "Uncertainty moved its weights 3 times in one step of the optimizer"),
    ],
)
def test_another_accumulation_is_told_once(recipe, words, tmp_path):
    (warning,) = told(trainer_of(tmp_path, recipe, save_strategy="no").train)
    assert warning.startswith(words)


@pytest.mark.parametrize(
    ("made", "read", "message"),
    [
        ({"add": False}, {}, "resume_from_checkpoint: expected one that was saved with a BalancerCallback"),
        ({}, {"recipe": GradNorm.direct}, r"state: expected a state of GradNorm \(direct\), got .*\(log\)"),
        ({}, {"tasks": ["word", "else"]}, r"state: expected a state of the tasks \['word', 'else'\]"),
    ],
)
def test_a_checkpoint_of_another_balancer_is_refused_in_one_line(made, read, message, tmp_path):
    trainer_of(tmp_path, max_steps=1, **made).train()
    with pytest.raises(ValueError, match=message) as error:
        trainer_of(tmp_path, **read).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert "\n" not in str(error.value)
