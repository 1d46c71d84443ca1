"""Models that nobody here wrote: torch's own transformer and LSTM, and a BERT of another library."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel

from learner import LearnerError
from learner.interrogate import bind, capture


def left_as_it_was(model):
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    return not any(
        m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in [*model.modules(), *twin.modules()]
    )


# -- torch's transformer -----------------------------------------------------------------------------------------------


@pytest.fixture
def transformer():
    return nn.Transformer(8, 2, num_encoder_layers=2, num_decoder_layers=2, dim_feedforward=16, batch_first=True)


@pytest.fixture
def sentences():
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [False] * 2 + [True] * 3])
    return torch.randn(3, 5, 8), torch.randn(3, 4, 8), padding


@pytest.mark.parametrize("grad", [False, True])
def test_layers_of_a_transformer_are_what_its_parts_give(transformer, sentences, grad):
    source, target, padding = sentences
    transformer.eval()
    layer = transformer.encoder.layers[0]
    with torch.set_grad_enabled(grad):
        with capture(transformer, "encoder", "decoder.layers.0", "encoder.layers.0.linear1", "decoder:in:tgt") as acts:
            output = transformer(source, target, src_key_padding_mask=padding)
        attended = layer.self_attn(source, source, source, key_padding_mask=padding, need_weights=False)[0]
        normed = layer.norm1(source + attended)
        torch.testing.assert_close(acts["encoder.layers.0.linear1"], layer.linear1(normed), atol=1e-5, rtol=1e-5)
        memory = source
        for layer in transformer.encoder.layers:
            memory = layer(memory, src_key_padding_mask=padding)
        torch.testing.assert_close(acts["encoder"], transformer.encoder.norm(memory), atol=1e-5, rtol=1e-5)
        expected = transformer.decoder.layers[0](target, acts["encoder"])
        torch.testing.assert_close(acts["decoder.layers.0"], expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(acts["decoder:in:tgt"], target)
    assert output.shape == (3, 4, 8)
    assert left_as_it_was(transformer)


# torch's own, of the fused path that is taken outside the block
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_padding_under_no_grad_is_no_trap(transformer, sentences):
    encoder, (source, _, padding) = transformer.encoder.eval(), sentences
    names = ["layers.0", "layers.1:in:0", "layers.1.linear2:in", "layers.0.self_attn:0", "layers.1.norm2"]
    with torch.no_grad():
        plain = encoder(source, src_key_padding_mask=padding)
        for name in names:
            with capture(encoder, name, pool="masked_mean") as acts:
                output = encoder(source, src_key_padding_mask=padding)
            assert acts[name].shape in ((3, 8), (3, 16))
            torch.testing.assert_close(output[~padding], plain[~padding], atol=1e-5, rtol=1e-5)
        assert torch.equal(encoder(source, src_key_padding_mask=padding), plain)
        with capture(encoder, "", pool="masked_mean") as acts:
            encoder(source, src_key_padding_mask=padding)
    expected = torch.stack([row[~pad].mean(0) for row, pad in zip(plain, padding, strict=True)])
    torch.testing.assert_close(acts[""], expected, atol=1e-5, rtol=1e-5)
    assert torch.backends.mha.get_fastpath_enabled()


def test_what_a_transformer_uses_by_its_weights_alone_is_missed(transformer, sentences):
    source, target, _ = sentences
    with capture(transformer, "encoder.layers.0.self_attn.out_proj", "encoder.layers.0.norm1") as acts:
        transformer(source, target)
    with pytest.raises(LearnerError, match=r"out_proj' did not; of those asked for \['encoder.layers.0.norm1'\] did"):
        acts["encoder.layers.0.self_attn.out_proj"]


def test_a_block_of_a_transformer_is_switched_off(transformer, sentences):
    source, target, _ = sentences
    transformer.eval()
    edit = {"encoder.layers.*.linear2": lambda value: 0 * value}
    with capture(transformer, "encoder", edit=edit) as acts:
        output = transformer(source, target)
    with torch.no_grad():
        for layer in transformer.encoder.layers:
            layer.linear2.weight.zero_()
            layer.linear2.bias.zero_()
    torch.testing.assert_close(acts["encoder"], transformer.encoder(source), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output, transformer(source, target), atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True, but:UserWarning")  # torch's own, of time first
def test_time_first_is_refused(sentences):
    source, target, _ = sentences
    model = nn.Transformer(8, 2, 1, 1, 16)
    with capture(model, "encoder", pool="mean"), pytest.raises(LearnerError, match="samples along the first axis"):
        model(source.transpose(0, 1), target.transpose(0, 1))
    assert left_as_it_was(model)


# -- torch's LSTM ------------------------------------------------------------------------------------------------------


class InferSent(nn.Module):
    """Words, a bidirectional LSTM over packed sentences, and the largest of each feature."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 6)
        self.lstm = nn.LSTM(6, 4, batch_first=True, bidirectional=True)
        self.pool = nn.AdaptiveMaxPool1d(1)
        self.head = nn.Linear(8, 2)

    def forward(self, words, lengths):
        packed = pack_padded_sequence(self.embed(words), lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, padding_value=-10.0)
        return self.head(self.pool(states.mT).squeeze(-1))


def before_and_after_pooling(self, words, lengths):
    packed = pack_padded_sequence(self.embed(words), lengths, batch_first=True, enforce_sorted=False)
    states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, padding_value=-10.0)
    return states.mT, self.pool(states.mT)


def test_new_methods_and_captured_layers_agree():
    model, words, lengths = InferSent(), torch.randint(0, 20, (5, 7)), torch.tensor([7, 3, 5, 1, 6])
    with bind(model, before_and_after_pooling):
        before, after = model.before_and_after_pooling(words, lengths)
    with capture(model, "pool:in", "pool", stop=True) as acts:
        assert model(words, lengths) is None
    assert torch.equal(acts["pool:in"], before)
    assert torch.equal(acts["pool"], after)
    assert left_as_it_was(model)


def test_packed_states_need_a_rule():
    model, words, lengths = InferSent(), torch.randint(0, 20, (3, 7)), torch.tensor([7, 3, 5])
    with capture(model, "lstm:0"), pytest.raises(LearnerError, match=r"got PackedSequence.* of 'lstm:0'"):
        model(words, lengths)
    with capture(model, "lstm:0", pool=lambda packed: pad_packed_sequence(packed, batch_first=True)[0]) as acts:
        model(words, lengths)
    for row, word, length in zip(acts["lstm:0"], words, lengths, strict=True):
        torch.testing.assert_close(row[:length], model.lstm(model.embed(word[:length]))[0])


def test_one_direction_of_an_lstm_is_switched_off():
    lstm, x = nn.LSTM(3, 4, batch_first=True, bidirectional=True), torch.randn(2, 5, 3)
    expected, (h, c) = lstm(x)
    with capture(lstm, ":0", edit={":0": lambda states: states * torch.tensor([1.0] * 4 + [0.0] * 4)}) as acts:
        states, (h_now, c_now) = lstm(x)
    assert torch.equal(states[..., :4], expected[..., :4])
    assert torch.equal(states[..., 4:], torch.zeros(2, 5, 4))
    assert torch.equal(acts[":0"], states)
    assert torch.equal(h_now, h)
    assert torch.equal(c_now, c)
    with capture(lstm, ":0", pool="mean") as acts:
        lstm(x)
    torch.testing.assert_close(acts[":0"], expected.mean(1))


# -- BERT --------------------------------------------------------------------------------------------------------------


def bert_config(n_layers, **kwargs):
    return BertConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=n_layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=12,
        **kwargs,
    )


@pytest.fixture
def bert():
    return BertModel(bert_config(3)).eval()


@pytest.fixture
def tokens():
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] * 2 + [0] * 5])
    return {"input_ids": torch.randint(0, 30, (3, 7)), "attention_mask": mask}


def test_layers_of_a_bert_are_the_hidden_states_that_it_can_give_itself(bert, tokens):
    own = copy.deepcopy(bert)(**tokens, output_hidden_states=True).hidden_states  # leaves hooks of its own for good
    names = ["embeddings", *(f"encoder.layer.{i}" for i in range(3))]
    with capture(bert, "embeddings", "encoder.layer.*") as acts:
        bert(**tokens)
    assert list(acts) == names
    assert left_as_it_was(bert)
    assert all(torch.equal(acts[name], states) for name, states in zip(names, own, strict=True))


@pytest.mark.parametrize("key", ["last_hidden_state", "0", "pooler_output", "1"])
def test_elements_of_what_a_bert_gives_have_names_and_numbers(bert, tokens, key):
    with capture(bert, f":{key}", "encoder:last_hidden_state") as acts:
        output = bert(**tokens)
    assert torch.equal(acts[f":{key}"], output[int(key) if key.isdecimal() else key])
    assert torch.equal(acts["encoder:last_hidden_state"], output.last_hidden_state)


def test_one_element_of_what_a_bert_gives_is_changed(bert, tokens):
    plain = bert(**tokens)
    with capture(bert, edit={"encoder:0": lambda value: 0 * value, ":pooler_output": lambda value: value + 1}):
        output = bert(**tokens)
    assert type(output) is type(plain)
    assert torch.equal(output["last_hidden_state"], torch.zeros(3, 7, 16))
    assert torch.equal(output.last_hidden_state, output["last_hidden_state"])
    torch.testing.assert_close(output.pooler_output, bert.pooler.dense.bias.tanh().expand(3, 16) + 1)
    assert torch.equal(output[1], output.pooler_output)


def test_poolings_of_a_bert(bert, tokens):
    states = bert(**tokens).last_hidden_state
    counts = tokens["attention_mask"].sum(1).tolist()
    expected = {"cls": states[:, 0], "mean": states.mean(1), "last": states[:, -1], "max": states.amax(1)}
    expected["masked_mean"] = torch.stack([row[:n].mean(0) for row, n in zip(states, counts, strict=True)])
    for pool, value in expected.items():
        assert left_as_it_was(bert)
        with capture(bert, "encoder.layer.2", pool=pool, stop=True) as acts:
            assert bert(**tokens) is None
        torch.testing.assert_close(acts["encoder.layer.2"], value, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("is_training", [False, True])
def test_a_bert_that_is_stopped_is_left_as_it_was_and_costs_less(bert, tokens, is_training):
    bert.train(is_training)

    def flops(stop):
        torch.manual_seed(0)  # of the dropout
        with FlopCounterMode(display=False) as counter, capture(bert, "encoder.layer.0", stop=stop) as acts:
            bert(**tokens, output_hidden_states=True)
        return counter.get_total_flops(), acts["encoder.layer.0"]

    (all_of_it, full), (a_part, stopped) = flops(stop=False), flops(stop=True)
    assert 2.5 < all_of_it / a_part < 3.5  # one of three layers
    assert torch.equal(full, stopped)
    assert all(module.training == is_training for module in bert.modules())
    bert.eval()
    assert len(bert(**tokens, output_hidden_states=True).hidden_states) == 4
    assert bert(**tokens).hidden_states is None


def test_attention_weights_are_captured_where_the_model_computes_them(tokens):
    config = bert_config(1, attn_implementation="eager")
    model = BertModel(config).eval()
    with capture(model, "encoder.layer.0.attention.self:1") as acts:
        model(**tokens)
    weights = acts["encoder.layer.0.attention.self:1"]
    assert weights.shape == (3, 2, 7, 7)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2, 7))
    assert weights[2, :, :, 2:].abs().max() == 0


def test_a_bert_that_saves_memory_runs_its_layers_once_as_far_as_is_seen(tokens):
    model = BertModel(bert_config(2)).train()
    model.activation_checkpointing_enable()
    with capture(model, "encoder.layer.0.output.dense", calls="all") as acts:
        model(**tokens).last_hidden_state.sum().backward()
    assert len(acts["encoder.layer.0.output.dense"]) == 1
