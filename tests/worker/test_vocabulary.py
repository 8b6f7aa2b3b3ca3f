"""Tokens that a chat template adds: they are trained in embedding and head, and the adapter carries them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from job.chat_template import BUILT_IN, adopt
from job.errors import AdapterRejected, BadSpec
from job.prepare.formats import Chat
from job.prepare.load import load_tokenizer
from job.prepare.tokenize import RowTokenizer
from job.records import ChatTemplateChoice, Plan, TrainTask
from job.rundir import RunDir
from job.spec import JobSpec
from job.train.methods import make_trainer
from job.train.proof import TOKEN_ROWS, AdapterWatch
from job.train.trainer import AdapterTrainer
from job.train.vocabulary import add_tokens
from tests.worker.templates import write_tokenizer

TALK = [{"role": "user", "content": "What is 1 plus 2?"}, {"role": "assistant", "content": "3, of course."}]
MakeBase = Callable[..., Path]


@pytest.fixture
def make_base(tmp_path: Path) -> MakeBase:
    """Writes a tiny random Llama without a chat template, with *spare* rows that no token of its vocabulary uses."""

    def make(*, tied: bool, spare: int) -> Path:
        folder = write_tokenizer(tmp_path / "base", "")
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(AutoTokenizer.from_pretrained(folder)) + spare, hidden_size=32, intermediate_size=64,
            num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=tied,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(folder)
        return folder

    return make


def chatml(folder: Path) -> ChatTemplateChoice:
    return load_tokenizer(folder, BUILT_IN["chatml"]).chat_template


def trainer_for(folder: Path, tmp_path: Path, choice: ChatTemplateChoice | None, **settings: object):
    (row,) = RowTokenizer(folder, choice)([("f:1", Chat(TALK, None))])
    data = {"input_ids": [row.input_ids.tolist()] * 4, "labels": [row.labels.tolist()] * 4}
    dataset = Dataset.from_dict(data)
    dataset.save_to_disk(tmp_path / "saved")
    (path,) = (tmp_path / "saved").glob("*.arrow")
    path.rename(tmp_path / "train.arrow")
    spec = JobSpec(model="org/m", dataset_uri="org/d", max_steps=4, learning_rate=1e-2, warmup_steps=0, **settings)
    plan = Plan(
        strategy="cpu", num_processes=1, precision="fp32", per_device_train_batch_size=2, use_gpu=False,
        max_length=128, gradient_accumulation_steps=1, global_batch_size=2, packing=False,
        gradient_checkpointing=True, reasons={},
    )  # fmt: skip
    task = TrainTask(
        model_path=folder, data_path=tmp_path, base_model_name=str(folder), base_model_revision=None, has_eval=False,
        chat_template=choice,
    )  # fmt: skip
    return make_trainer(spec, plan, task, RunDir(tmp_path / "run"), lambda: None)


def token_rows(trainer: AdapterTrainer) -> dict[str, torch.Tensor]:
    return {n: p for n, p in trainer.model.named_parameters() if p.requires_grad and TOKEN_ROWS in n}


@pytest.mark.parametrize("spare", [0, 1, 64], ids=["resized", "one row short", "spare rows"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_new_tokens_are_learned_and_the_saved_adapter_gives_the_same_logits(make_base, tmp_path, tied, spare):
    folder = make_base(tied=tied, spare=spare)
    trainer, added = trainer_for(folder, tmp_path, chatml(folder))
    watch, before = AdapterWatch(trainer.model), {n: p.detach().clone() for n, p in token_rows(trainer).items()}

    trainer.train()
    proof = watch.prove()
    trainer.save_model(str(tmp_path / "adapter"))

    assert added.tokens == ("<|im_start|>", "<|im_end|>")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "adapter")
    assert added.resized_to == (len(tokenizer) if spare < 2 else None)
    assert len(before) == (1 if tied else 2)
    assert proof.changed_tensors == proof.tensors
    for name, rows in token_rows(trainer).items():
        assert ((rows - before[name]).abs().amax(dim=1) > 1e-3).all(), "a token's row has not moved"

    assert tokenizer.eos_token == "<|im_end|>"
    text = tokenizer.apply_chat_template(TALK, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    assert set(added.ids) <= set(ids[0].tolist())
    base = AutoModelForCausalLM.from_pretrained(folder)
    if added.resized_to:
        base.resize_token_embeddings(len(tokenizer))
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with torch.no_grad():
        expected, logits = trainer.model.eval()(input_ids=ids).logits, loaded(input_ids=ids).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    files = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert [tuple(t.shape) for n, t in files.items() if "embed_tokens" in n or "lm_head" in n] == [(2, 32)] * len(
        before
    )


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_the_loss_sees_the_new_rows_of_the_head_and_of_the_embedding(make_base, tmp_path, tied):
    """TRL's fused loss multiplies by the head's weight itself; what it sees must be what generation sees."""
    folder = make_base(tied=tied, spare=8)
    trainer, added = trainer_for(folder, tmp_path, chatml(folder))
    ids = torch.tensor([[5, added.ids[0], 7, added.ids[1], 9, added.ids[1]]])
    with torch.no_grad():
        for rows in token_rows(trainer).values():
            rows += 0.5

    fused = trainer.model(input_ids=ids, labels=ids, fused_lm_head=True)
    logits = trainer.model(input_ids=ids).logits[:, :-1]
    expected = torch.log_softmax(logits, -1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    fused.loss.backward()

    torch.testing.assert_close(fused.log_probs.reshape(-1)[:5], expected.reshape(-1), rtol=0, atol=1e-5)
    for name, rows in token_rows(trainer).items():
        assert (rows.grad.abs().amax(dim=1) > 0).all(), f"{name} gets no gradient"


@pytest.mark.parametrize("spare", [0, 8])
def test_new_rows_begin_at_the_mean_of_the_vocabulary_and_nothing_else_moves(make_base, spare):
    folder = make_base(tied=False, spare=spare)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    known = len(tokenizer)
    layers = (model.get_input_embeddings, model.get_output_embeddings)
    before = [layer().weight.detach().clone() for layer in layers]

    added = add_tokens(model, tokenizer, chatml(folder))

    for layer, old in zip(layers, before, strict=True):
        new = layer().weight.detach()
        assert torch.equal(new[:known], old[:known])
        torch.testing.assert_close(new[list(added.ids)], old[:known].mean(0).expand(2, -1))
        assert new.shape[0] == known + max(2, spare)
        assert torch.equal(new[known + 2 :], old[known + 2 :])


def test_a_template_without_new_tokens_leaves_the_model_alone(make_base, tmp_path):
    folder = make_base(tied=False, spare=8)
    trainer, added = trainer_for(folder, tmp_path, BUILT_IN["plain"])
    trainer.save_model(str(tmp_path / "adapter"))

    assert (added.ids, added.resized_to, token_rows(trainer)) == ((), None, {})
    assert AutoTokenizer.from_pretrained(tmp_path / "adapter").chat_template == BUILT_IN["plain"].source


def test_weight_decay_leaves_new_rows_alone(make_base, tmp_path):
    """They would shrink without being learned, and the proof that they changed would prove nothing."""
    folder = make_base(tied=False, spare=8)
    trainer, _ = trainer_for(folder, tmp_path, chatml(folder), weight_decay=0.5)
    trainer.create_optimizer()

    decayed = {id(p) for group in trainer.optimizer.param_groups if group["weight_decay"] for p in group["params"]}

    assert decayed
    assert not decayed & {id(rows) for rows in token_rows(trainer).values()}


def test_an_adapter_on_the_embedding_is_refused_beside_new_tokens(make_base, tmp_path):
    """On the head it is refused beside any: the fused loss never calls it."""
    folder = make_base(tied=True, spare=8)

    with pytest.raises(BadSpec, match=r"JOB_TARGET_MODULES=embed_tokens .*<\|im_start\|>.* JOB_CHAT_TEMPLATE=plain"):
        trainer_for(folder, tmp_path, chatml(folder), target_modules=("q_proj", "embed_tokens"))


@pytest.mark.parametrize(("learned", "rejected"), [("lm_head", False), ("", True)])
def test_new_rows_may_rest_in_the_embedding_where_the_head_has_learned_them(make_base, tmp_path, learned, rejected):
    folder = make_base(tied=False, spare=8)
    trainer, _ = trainer_for(folder, tmp_path, chatml(folder))
    watch = AdapterWatch(trainer.model)
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if parameter.requires_grad and (TOKEN_ROWS not in name or (learned and learned in name)):
                parameter += 1

    if rejected:
        with pytest.raises(AdapterRejected, match=TOKEN_ROWS):
            watch.prove()
    else:
        assert [name for name in watch.prove().unchanged if "embed_tokens" in name]


def test_both_ways_of_loading_a_tokenizer_give_new_tokens_the_same_ids(make_base):
    folder = make_base(tied=True, spare=0)

    ids = [adopt(load.from_pretrained(folder), BUILT_IN["chatml"]) for load in (AutoTokenizer, PreTrainedTokenizerFast)]

    assert ids[0] == ids[1] != []
