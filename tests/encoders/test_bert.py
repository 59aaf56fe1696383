"""BERT against transformers' own forward pass, the formats of its weights, and word pooling against a plain loop."""

import json
from pathlib import Path

import huggingface_hub
import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForPreTraining, BertModel

from tvr_lightning.encoders import BERT_PRESETS, BERTEncoder, BERTSize, pool_words
from tvr_lightning.errors import CheckpointError, ConfigError

SIZE = BERTSize(width=32, layers=3, heads=4, mlp_width=48, vocabulary_size=60, positions=24)


def make(seed=0, **options):
    torch.manual_seed(seed)
    return BERTEncoder(**({"size": SIZE, "context_length": 12} | options))


def inputs(context_length=12, lengths=(7, 3, 9)):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(5, 60, (len(lengths), context_length), generator=generator)
    mask = torch.arange(context_length) < torch.tensor(lengths)[:, None]
    return tokens.masked_fill(~mask, 0), mask


def source_model(kind=BertForPreTraining, **settings):
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=24,
        **settings,
    )
    model = kind(config).eval()
    for parameter in model.parameters():  # biases are zero and norms one at first, which would hide swaps
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def reference(model, tokens, mask):
    bert = getattr(model, "bert", model)
    with torch.no_grad():
        return bert(input_ids=tokens, attention_mask=mask).last_hidden_state


def save_pretraining(model, folder):
    model.save_pretrained(folder)
    return folder


def save_bin(model, folder):
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


def save_converted_from_tensorflow(model, folder):
    """As the first releases are: gamma and beta, and the position numbers as a buffer."""
    model.config.save_pretrained(folder)
    state = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value.clone()
        for name, value in model.state_dict().items()
    }
    state["bert.embeddings.position_ids"] = torch.arange(24)[None]
    save_file(state, folder / "model.safetensors")
    return folder


def save_one_file(model, folder):
    save_pretraining(model, folder)
    return folder / "model.safetensors"


@pytest.mark.parametrize("save", [save_pretraining, save_bin, save_converted_from_tensorflow, save_one_file])
def test_features_equal_transformers(tmp_path, save):
    model = source_model()
    encoder = make(from_pretrained=str(save(model, tmp_path))).eval()
    tokens, mask = inputs()
    with torch.no_grad():
        features = encoder.encode_tokens(tokens, mask)
    torch.testing.assert_close(features[mask], reference(model, tokens, mask)[mask], atol=1e-5, rtol=1e-5)
    assert features.shape == (3, 12, 32)
    assert not features[~mask].any()
    assert encoder.pretrained
    assert not make().pretrained


def test_model_without_heads_and_other_settings(tmp_path):
    model = source_model(BertModel, hidden_act="relu", layer_norm_eps=1e-3, type_vocab_size=1, hidden_dropout_prob=0.3)
    model.save_pretrained(tmp_path)
    encoder = make(from_pretrained=str(tmp_path)).eval()
    tokens, mask = inputs()
    features = encoder.encode_tokens(tokens, mask).detach()
    torch.testing.assert_close(features[mask], reference(model, tokens, mask)[mask], atol=1e-5, rtol=1e-5)
    assert encoder.bert.embeddings.dropout.p == 0.3
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_act": "gelu"}))
    assert encoder.fingerprint() != make(from_pretrained=str(tmp_path)).fingerprint()


def test_full_bert_has_the_published_sizes():
    with torch.device("meta"):
        encoder = BERTEncoder("bert-base-uncased", context_length=512)
    assert (encoder.embed_dim, encoder.vocabulary_size, encoder.context_length) == (768, 30522, 512)
    # 110M in the paper's table with the pooler, 768 x 768 + 768
    assert sum(p.numel() for p in encoder.parameters()) == 109_482_240 - (768 * 768 + 768)


def test_features_do_not_depend_on_padding_or_other_items():
    encoder = make().eval()
    tokens, mask = inputs()
    with torch.no_grad():
        features = encoder.encode_tokens(tokens, mask)
        assert torch.equal(encoder.encode_tokens(tokens.masked_fill(~mask, 17), mask), features)
        alone = encoder.encode_tokens(tokens[1:2, :3], mask[1:2, :3])
        torch.testing.assert_close(alone, features[1:2, :3], atol=1e-5, rtol=1e-5)
        permuted = encoder.encode_tokens(tokens[[2, 0, 1]], mask[[2, 0, 1]])
        torch.testing.assert_close(permuted, features[[2, 0, 1]], atol=1e-5, rtol=1e-5)


def test_text_without_any_token_gives_zeros_and_finite_gradients():
    encoder = make()
    tokens, mask = inputs(lengths=(5, 0))
    features = encoder.encode_tokens(tokens, mask)
    assert torch.isfinite(features).all()
    assert not features[1].any()
    features.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters())
    assert not encoder.encode_tokens(tokens, torch.zeros_like(mask)).any()
    assert encoder.encode_tokens(tokens[:0], mask[:0]).shape == (0, 12, 32)


def test_paragraphs_of_the_whole_position_table():
    encoder = BERTEncoder("tiny", context_length=512).eval()
    tokens = torch.randint(5, 2000, (2, 512), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(512) < torch.tensor([[512], [40]])
    with torch.no_grad():
        features = encoder.encode_tokens(tokens, mask)
        short = encoder.encode_tokens(tokens[1:, :40], mask[1:, :40])
    torch.testing.assert_close(features[1:, :40], short, atol=1e-5, rtol=1e-5)


def test_same_seed_same_weights():
    assert make().fingerprint() == make().fingerprint() != make(seed=1).fingerprint()


def loss_of(encoder):
    return encoder.encode_tokens(*inputs()).sin().sum()


@pytest.mark.parametrize("saving", [False, True])
def test_every_parameter_receives_the_same_gradient(saving):
    encoder, plain = make(gradient_checkpointing=saving), make()
    for each in (encoder, plain):
        torch.manual_seed(5)  # the same dropouts
        loss_of(each).backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()] == []
    for one, two in zip(encoder.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)


@pytest.mark.filterwarnings("error::FutureWarning")
def test_gradient_checkpointing_keeps_fewer_tensors():
    def kept(encoder):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            loss_of(encoder)
        return sum(sizes)

    assert kept(make(gradient_checkpointing=True)) < kept(make()) / 2


def test_gradients_in_float64():
    encoder = make(size=BERTSize(8, 1, 2, 8, 20, 6, dropout=0.0), context_length=4).double()
    tokens, mask = inputs(4, (4, 2))
    tokens = tokens % 20
    word = torch.tensor([[-1, 0, 0, 1], [-1, 0, -1, -1]])
    encoder.forward = lambda: pool_words(encoder.encode_tokens(tokens, mask), word, 2)[0]
    names = [name for name, _ in encoder.named_parameters()]
    weights = [p.detach().clone().requires_grad_() for p in encoder.parameters()]

    def features(*values):
        return torch.func.functional_call(encoder, dict(zip(names, values, strict=True)), ())

    assert torch.autograd.gradcheck(features, weights, fast_mode=True)


@pytest.mark.parametrize("count", [1, 3])
def test_freeze_layers(count):
    encoder = make(freeze_layers=count)
    if count == 3:
        assert not loss_of(encoder).requires_grad
    else:
        loss_of(encoder).backward()
    frozen = {n for n, p in encoder.named_parameters() if not p.requires_grad}
    parts = ("bert.embeddings.", *(f"bert.encoder.layer.{layer}." for layer in range(count)))
    assert frozen == {n for n, _ in encoder.named_parameters() if n.startswith(parts)}
    for name, parameter in encoder.named_parameters():
        assert (parameter.grad is None) == (name in frozen), name


def test_freeze_keeps_evaluation_mode_and_makes_no_graph():
    encoder = make(freeze=True, gradient_checkpointing=True).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())
    assert torch.equal(encoder.encode_tokens(*inputs()), encoder.encode_tokens(*inputs()))  # no dropout


@pytest.mark.slow
def test_tiny_learns_from_scratch():
    """Which of eight words stands right after the marked one: needs positions and attention, not a bag of words."""
    torch.manual_seed(0)
    encoder = BERTEncoder("tiny", context_length=8)
    assert (encoder.embed_dim, encoder.vocabulary_size) == (128, BERT_PRESETS["tiny"].vocabulary_size)
    head = torch.nn.Linear(128, 8)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=1e-3)

    def batch(count):
        tokens = 10 + torch.randint(8, (count, 8))
        tokens[:, 0] = 2
        mark = torch.randint(1, 7, (count,))
        rows = torch.arange(count)
        tokens[rows, mark] = 9
        return tokens, tokens[rows, mark + 1] - 10

    mask = torch.ones(128, 8, dtype=torch.bool)
    for _ in range(300):
        tokens, target = batch(64)
        loss = F.cross_entropy(head(encoder.encode_tokens(tokens, mask[:64])[:, 0]), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        tokens, target = batch(128)
        right = head(encoder.encode_tokens(tokens, mask)[:, 0]).argmax(1) == target
    assert right.float().mean() > 0.8  # chance is 0.125


def test_bfloat16_autocast():
    encoder = make().eval()
    full = encoder.encode_tokens(*inputs()).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = encoder.encode_tokens(*inputs())
        words, _ = pool_words(half, torch.zeros(3, 12, dtype=torch.int64), 2)
    torch.testing.assert_close(half.float(), full, atol=0.1, rtol=0.1)
    assert torch.isfinite(words).all()


def test_no_value_is_read_on_the_host():
    encoder = make().to("meta")  # a meta tensor has no value: reading one raises
    tokens, mask = (x.to("meta") for x in inputs())
    features = encoder.encode_tokens(tokens, mask)
    assert features.shape == (3, 12, 32)
    words, word_mask = pool_words(features, tokens, 4)
    assert words.shape == (3, 4, 32)
    assert word_mask.shape == (3, 4)


def test_state_dict_goes_round_and_names_the_fingerprint():
    encoder, again = make(), make(seed=1, freeze=True)
    assert len(encoder.state_dict()) == len(list(encoder.parameters()))
    assert again.fingerprint() != encoder.fingerprint()
    again.load_state_dict(encoder.state_dict())
    assert again.fingerprint() == encoder.fingerprint()
    assert make(context_length=20, freeze=True).fingerprint() == encoder.fingerprint()
    assert torch.equal(again.encode_tokens(*inputs()), encoder.eval().encode_tokens(*inputs()))


def test_wrong_inputs_name_the_setting():
    encoder = make()
    tokens, mask = inputs()
    with pytest.raises(ValueError, match="context_length=12"):
        encoder.encode_tokens(torch.ones(1, 13, dtype=torch.int64), torch.ones(1, 13, dtype=torch.bool))
    with pytest.raises(ValueError, match="token_mask"):
        encoder.encode_tokens(tokens, mask[:, :3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": None, "model": "bert-base-uncasd"}, "did you mean bert-base-uncased"),
        ({"context_length": 25}, "context_length=25 does not fit the 24 positions"),
        ({"context_length": 0}, "Set 1 to 24"),
        ({"freeze_layers": 4}, "set 0 to 3"),
        ({"freeze_layers": -1}, "set 0 to 3"),
        ({"size": BERTSize(30, 3, 4, 48, 60)}, "width=30 is not a multiple of heads=4"),
        ({"size": BERTSize(32, 0, 4, 48, 60)}, "layers=0"),
        ({"size": BERTSize(32, 1, 4, 48, 60, dropout=1.0)}, r"dropout=1\.0"),
    ],
)
def test_wrong_configuration(options, message):
    with pytest.raises(ConfigError, match=message):
        make(**options)


def test_folder_that_does_not_fit(tmp_path):
    source_model().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"hidden_size: expected 128, found 32.* 4 more|Set `model`"):
        make(from_pretrained=str(tmp_path), size=None, model="tiny")
    config = json.loads((tmp_path / "config.json").read_text())
    for change, message in (
        ({"model_type": "roberta"}, "model_type=roberta"),
        ({"is_decoder": True}, "is_decoder"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"num_attention_heads": 2}, "num_attention_heads: expected 4, found 2"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(CheckpointError, match=message):
            make(from_pretrained=str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(config))
    state = load_file(tmp_path / "model.safetensors")
    del state["bert.encoder.layer.1.output.dense.bias"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"encoder\.layer\.1\.output\.dense\.bias: missing"):
        make(from_pretrained=str(tmp_path))
    norm = "bert.embeddings.LayerNorm."
    save_file({**state, f"{norm}gamma": state[f"{norm}weight"] + 1}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"two tensors for one parameter, embeddings\.LayerNorm\.weight"):
        make(from_pretrained=str(tmp_path))
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no 'config\.json' beside it"):
        make(from_pretrained=str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no weight file"):
        make(from_pretrained=str(tmp_path))
    with pytest.raises(CheckpointError, match="No weights at"):
        make(from_pretrained=str(tmp_path / "absent"))


def test_pickled_code_in_weights_is_refused(tmp_path):
    class Touch:
        def __reduce__(self):
            return open, (str(tmp_path / "mark"), "w")

    source_model().config.save_pretrained(tmp_path)
    torch.save({"weight": torch.zeros(1), "extra": Touch()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="was refused"):
        make(from_pretrained=str(tmp_path))
    assert not (tmp_path / "mark").exists()


def hub(folder):
    """A repository whose files are those of a folder."""

    def download(repository, name):
        assert repository == "org/bert"
        if not (folder / name).is_file():
            raise EntryNotFoundError(f"no {name}")
        return str(folder / name)

    return download


@pytest.mark.parametrize("save", [save_pretraining, save_bin])
def test_hub_name(tmp_path, monkeypatch, save):
    model = source_model()
    save(model, tmp_path)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub(tmp_path))
    tokens, mask = inputs()
    features = make(from_pretrained="org/bert").eval().encode_tokens(tokens, mask).detach()
    torch.testing.assert_close(features[mask], reference(model, tokens, mask)[mask], atol=1e-5, rtol=1e-5)
    for name in ("model.safetensors", "pytorch_model.bin"):
        Path(tmp_path / name).unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match=r"org/bert holds no model\.safetensors and no pytorch_model\.bin"):
        make(from_pretrained="org/bert")


def test_failed_download_names_the_local_way(monkeypatch):
    def offline(repository, name):
        raise LocalEntryNotFoundError("no route")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(CheckpointError, match=r"no local path 'bert-base-uncased'.* set from_pretrained to the local"):
        BERTEncoder("bert-base-uncased", "bert-base-uncased")


def test_pooling_equals_a_loop():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4, 9, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    word = torch.randint(-1, 5, (4, 9), generator=generator)
    word[2] = -1
    words, mask = pool_words(features, word, 4)
    for t in range(4):
        for w in range(4):
            pieces = [features[t, i] for i in range(9) if word[t, i] == w]
            assert bool(mask[t, w]) == bool(pieces)
            expected = torch.stack(pieces).mean(0) if pieces else torch.zeros(5, dtype=torch.float64)
            torch.testing.assert_close(words[t, w], expected)
    assert torch.autograd.gradcheck(lambda x: pool_words(x, word, 4)[0], features)
    with pytest.raises(ValueError, match="word"):
        pool_words(features, word[:, :3], 4)
