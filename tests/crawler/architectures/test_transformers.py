"""Roles against the libraries' own forward passes: what a model computes says which rows are q, k, v, gate and up.

Tiny random models are saved as their library saves them, resolved from header and config alone, and the extracted
matrices must reproduce the queries, keys and values that the library hands to its attention function for one
token at position 0 (where every rotary embedding is the identity), and the outputs of attention and feed-forward.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from provenance.crawler.architectures import read_names, resolve_roles, rows_index
from provenance.schemas.tensors import LogicalTensor, ResolvedRoles, TensorEntry

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors")
transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.architectures, pytest.mark.filterwarnings("ignore")]

HIDDEN, HEADS, LAYERS, TOKENS = 32, 4, 2, 40
COMMON = {"vocab_size": 64, "hidden_size": HIDDEN, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS}
GROUPED = COMMON | {"intermediate_size": 40, "num_key_value_heads": 2, "pad_token_id": 0}
WIDE = GROUPED | {"head_dim": 10}
GPT2 = {"vocab_size": 64, "n_embd": HIDDEN, "n_head": HEADS, "n_layer": LAYERS, "n_positions": 16}
BERT = COMMON | {"intermediate_size": 40, "max_position_embeddings": 16}
EXPERTS = {"num_experts_per_tok": 3, "output_router_logits": False}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", WIDE),
    "mistral": ("MistralForCausalLM", WIDE),
    "qwen2": ("Qwen2ForCausalLM", GROUPED),
    "qwen3": ("Qwen3ForCausalLM", WIDE),
    "gemma": ("GemmaForCausalLM", WIDE),
    "gemma2": ("Gemma2ForCausalLM", WIDE),
    "gemma3": ("Gemma3ForCausalLM", WIDE),
    "olmo2": ("Olmo2ForCausalLM", GROUPED),
    "stablelm": ("StableLmForCausalLM", GROUPED),
    "cohere": ("CohereForCausalLM", GROUPED),
    "glm": ("GlmForCausalLM", WIDE | {"head_dim": 8}),
    "phi": ("PhiForCausalLM", GROUPED),
    "phi3": ("Phi3ForCausalLM", GROUPED),
    "gpt2": ("GPT2LMHeadModel", GPT2),
    "gpt2-base": ("GPT2Model", GPT2),
    "gpt_neo": (
        "GPTNeoForCausalLM",
        {"vocab_size": 64, "hidden_size": HIDDEN, "num_heads": HEADS, "num_layers": LAYERS,
         "attention_types": [[["global"], LAYERS]], "max_position_embeddings": 16},
    ),
    "gptj": ("GPTJForCausalLM", GPT2 | {"rotary_dim": 4}),
    "codegen": ("CodeGenForCausalLM", GPT2 | {"rotary_dim": 4}),
    "gpt_bigcode": ("GPTBigCodeForCausalLM", GPT2 | {"multi_query": True}),
    "gpt_bigcode-mha": ("GPTBigCodeForCausalLM", GPT2 | {"multi_query": False}),
    "gpt_neox": ("GPTNeoXForCausalLM", COMMON | {"intermediate_size": 40}),
    "persimmon": ("PersimmonForCausalLM", COMMON | {"intermediate_size": 40, "qk_layernorm": False}),
    "opt": ("OPTForCausalLM", COMMON | {"ffn_dim": 40, "word_embed_proj_dim": HIDDEN, "max_position_embeddings": 16}),
    "mixtral": ("MixtralForCausalLM", GROUPED | EXPERTS | {"num_local_experts": 3}),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM",
        WIDE | EXPERTS | {"num_experts": 3, "moe_intermediate_size": 16, "decoder_sparse_step": 1},
    ),
    "qwen3_5": ("Qwen3_5ForCausalLM", WIDE | {"head_dim": 8, "layer_types": ["full_attention"] * LAYERS}),
    "bert": ("BertModel", BERT),
    "bert-mlm": ("BertForMaskedLM", BERT),
    "roberta": ("RobertaModel", BERT | {"max_position_embeddings": 24}),
    "distilbert": ("DistilBertModel", {"vocab_size": 64, "dim": HIDDEN, "n_heads": HEADS, "n_layers": LAYERS,
                                       "hidden_dim": 40, "max_position_embeddings": 16}),
    "modernbert": ("ModernBertModel", COMMON | {"intermediate_size": 40, "pad_token_id": 0}),
}  # fmt: skip


OWN_ATTENTION = ("gpt_neo", "gptj", "codegen")
"""These have no exchangeable attention function: their own is watched."""

QUERY_SCALE = {"opt": (HIDDEN // HEADS) ** -0.5}
"""OPT scales its queries before it attends."""


@dataclass
class Checkpoint:
    """A saved model, what its tensors were resolved to, and what its layers were seen to compute."""

    model: Any
    entries: list[TensorEntry]
    config: dict[str, Any]
    roles: ResolvedRoles
    arrays: dict[str, NDArray[np.float32]]
    attended: list[tuple[Any, Any, Any]] = field(default_factory=list)

    def weight(self, role: str, layer: int, expert: int | None = None) -> NDArray[np.float32] | None:
        key = (role, "main", layer, expert)
        found = [t for t in self.roles.tensors if (t.role, t.stack, t.layer, t.expert) == key]
        assert len(found) <= 1
        return extract(found[0], self.arrays) if found else None

    def matrix(self, role: str, layer: int, expert: int | None = None) -> NDArray[np.float32]:
        weight = self.weight(role, layer, expert)
        assert weight is not None, f"{role} of layer {layer}: {self.roles.notes}"
        return weight


def extract(tensor: LogicalTensor, arrays: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """The plain reading of a `LogicalTensor`."""
    n = int(np.prod(tensor.stored_shape))
    stored = arrays[tensor.name].reshape(-1)[tensor.element_offset : tensor.element_offset + n]
    stored = stored.reshape(tensor.stored_shape)
    stored = stored.T if tensor.transposed else stored
    logical = stored if tensor.rows is None else stored[rows_index(tensor.rows)]
    assert logical.shape == tensor.shape
    return logical


def save(model: Any, folder: Path) -> Checkpoint:
    model.save_pretrained(folder)
    entries, arrays = [], {}
    for file in sorted(folder.glob("*.safetensors")):
        header = json.loads(file.read_bytes()[8:].split(b"}}")[0] + b"}}")
        with safetensors.safe_open(file, "np") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - a safetensors file is no mapping
                arrays[name] = tensors.get_tensor(name)
                start, stop = header[name]["data_offsets"]
                entries.append(TensorEntry(name, header[name]["dtype"], arrays[name].shape, file.name, start, stop))
    config = json.loads((folder / "config.json").read_text())
    return Checkpoint(model, entries, config, resolve_roles(entries, config), arrays)


def build(architecture: str, options: dict[str, Any], folder: Path) -> Checkpoint:
    model_class = getattr(transformers, architecture)
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**options)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Biases without a role would only clutter the sums below.
            keeps = (
                parameter.ndim > 1 or "norm" in name.lower() or any(word in name for word in ("q", "k", "v", "c_attn"))
            )
            parameter.normal_(0, 0.5 if parameter.ndim > 1 else 0.1) if keeps else parameter.zero_()
    return save(model, folder)


def watched(own: Any, attended: list[tuple[Any, Any, Any]]) -> Any:
    """A model's own attention function, noting the queries, keys and values it gets."""

    def attend(query: Any, key: Any, value: Any, *rest: Any, **options: Any) -> Any:
        attended.append((query, key, value))
        return own(query, key, value, *rest, **options)

    return attend


@pytest.fixture(params=MODELS)
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Checkpoint]:
    architecture, options = MODELS[request.param]
    built = build(architecture, options, tmp_path)

    def spy(module: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> tuple[Any, None]:
        built.attended.append((query, key, value))
        groups = query.shape[1] // value.shape[1]
        return value.repeat_interleave(groups, dim=1).transpose(1, 2).contiguous(), None

    transformers.AttentionInterface.register("spy", spy)
    if request.param in OWN_ATTENTION:
        for layer in layers_of(built.model):
            attention = getattr(layer.attn, "attention", layer.attn)
            attention._attn = watched(attention._attn, built.attended)
    else:
        built.model.set_attn_implementation("spy")
    yield built
    built.attended.clear()


def layers_of(model: Any) -> list[Any]:
    """The module lists' own layers, whatever their attribute is called."""
    return [m for name, m in model.named_modules() if name.rpartition(".")[2].isdigit() and hasattr(m, "forward")
            and name.rpartition(".")[0].rpartition(".")[2] in ("layers", "h", "layer")]  # fmt: skip


def run_and_watch(checkpoint: Checkpoint, wanted: tuple[str, ...]) -> dict[str, list[tuple[Any, Any]]]:
    """Inputs and outputs of each layer's child called one of `wanted`, for TOKENS sequences of one token."""
    seen: dict[str, list[tuple[Any, Any]]] = {name: [] for name in wanted}
    handles = []
    for layer in layers_of(checkpoint.model):
        for name in wanted:
            child = layer
            for part in name.split("."):
                child = getattr(child, part, None)
            if child is None:
                continue

            def hook(_: Any, args: Any, kwargs: Any, output: Any, name: str = name) -> None:
                inputs = args[0] if args else kwargs["hidden_states"]
                output = output[0] if isinstance(output, tuple) else output
                seen[name].append((inputs.reshape(-1, HIDDEN).numpy(), output.reshape(len(inputs), -1).numpy()))

            handles.append(child.register_forward_hook(hook, with_kwargs=True))
    with torch.no_grad():
        checkpoint.model(input_ids=torch.arange(4, 4 + TOKENS)[:, None])
    for handle in handles:
        handle.remove()
    return {name: pairs for name, pairs in seen.items() if pairs}


ATTENTIONS = ("self_attn", "attn.attention", "attn", "attention.self", "attention")
FEED_FORWARDS = ("mlp", "block_sparse_moe")


def test_queries_keys_and_values_are_those_the_library_attends_with(checkpoint: Checkpoint) -> None:
    seen = run_and_watch(checkpoint, ATTENTIONS)
    name = next(name for name in ATTENTIONS if name in seen)
    assert len(checkpoint.attended) == LAYERS == checkpoint.roles.n_layers
    assert checkpoint.roles.n_kv_heads == checkpoint.attended[0][1].shape[1]
    for number, (inputs, _) in enumerate(seen[name]):
        attention = layers_of(checkpoint.model)[number]
        for part in name.split("."):
            attention = getattr(attention, part)
        for role, states in zip("qkv", checkpoint.attended[number], strict=True):
            expected = inputs @ checkpoint.matrix(role, number).T
            bias = checkpoint.weight(f"{role}_bias", number)
            expected = expected if bias is None else expected + bias
            norm = getattr(attention, f"{role}_norm", None)
            if role == "q":
                expected = expected * QUERY_SCALE.get(checkpoint.config["model_type"], 1.0)
            seen_states = states[:, :, 0].numpy()
            if norm is not None:
                rows = expected.reshape(seen_states.shape) if norm.weight.numel() == seen_states.shape[2] else expected
                expected = norm(torch.from_numpy(rows)).detach().numpy()
            np.testing.assert_allclose(expected.reshape(seen_states.shape), seen_states, rtol=1e-3, atol=1e-4)


def test_output_projection_makes_the_attentions_output(checkpoint: Checkpoint) -> None:
    if checkpoint.config["model_type"] in ("bert", "roberta"):
        for number, layer in enumerate(layers_of(checkpoint.model)):
            own = layer.attention.output.dense.weight.detach().numpy()
            np.testing.assert_array_equal(checkpoint.matrix("o", number), own)
        return
    seen = run_and_watch(checkpoint, ATTENTIONS)
    name = next(name for name in ATTENTIONS if name in seen)
    for number, (_, outputs) in enumerate(seen[name]):
        query, _, value = checkpoint.attended[number]
        heads = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1).reshape(TOKENS, -1).numpy()
        expected = heads @ checkpoint.matrix("o", number).T
        if checkpoint.config["model_type"] == "qwen3_5_text":
            assert expected.shape == outputs.shape  # its output gate stands between
        else:
            np.testing.assert_allclose(expected, outputs, rtol=1e-3, atol=1e-3)


def _activation(module: Any) -> Any:
    for name in ("act_fn", "activation_fn", "act", "activation"):
        if hasattr(module, name):
            return getattr(module, name)
    raise AssertionError(f"{type(module).__name__} has no activation")


def _dense(inputs: Any, activation: Any, gate: Any, up: Any, down: Any) -> Any:
    raised = inputs @ up.T
    inner = activation(raised) if gate is None else activation(inputs @ gate.T) * raised
    return inner @ down.T


def test_feed_forward_is_gate_up_and_down(checkpoint: Checkpoint) -> None:
    seen = run_and_watch(checkpoint, FEED_FORWARDS)
    if not seen:
        assert checkpoint.config["model_type"] in ("bert", "roberta", "distilbert", "opt")
        assert all(checkpoint.matrix("up", n).shape == (checkpoint.matrix("down", n).shape[1], HIDDEN) for n in (0, 1))
        return
    ((name, pairs),) = seen.items()
    for number, (inputs, outputs) in enumerate(pairs):
        module = getattr(layers_of(checkpoint.model)[number], name)
        x = torch.from_numpy(inputs)
        router = checkpoint.weight("router", number)
        experts = [None] if router is None else [0, 1, 2]
        shares = [1.0] if router is None else torch.softmax(x @ torch.from_numpy(router).T, dim=-1).T[..., None]
        activation = _activation(module if router is None else module.experts)
        total = torch.zeros(len(inputs), HIDDEN)
        for expert, share in zip(experts, shares, strict=True):
            parts = [checkpoint.weight(role, number, expert) for role in ("gate", "up", "down")]
            gate, up, down = (None if part is None else torch.from_numpy(part.copy()) for part in parts)
            total += share * _dense(x, activation, gate, up, down)
        np.testing.assert_allclose(total.detach().numpy(), outputs, rtol=1e-3, atol=1e-2)


def test_norms_embedding_and_figures(checkpoint: Checkpoint) -> None:
    roles = [t.role for t in checkpoint.roles.tensors if t.stack == "main"]
    assert roles.count("embed") == 1
    assert roles.count("attn_norm") == LAYERS - (checkpoint.config["model_type"] == "modernbert")
    assert (checkpoint.roles.n_heads, checkpoint.roles.hidden_size) == (HEADS, HIDDEN)
    assert checkpoint.roles.architecture == type(checkpoint.model).__name__
    assert checkpoint.roles.model_type == checkpoint.config["model_type"]
    assert checkpoint.roles.notes == ()
    assert read_names(checkpoint.entries).needs_config == (
        checkpoint.config["model_type"] in ("gpt_neox", "persimmon", "gpt_bigcode", "codegen", "qwen3_5_text")
    )


FALCON = {
    "vocab_size": 64,
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "bias": True,
}
OWN_SPLIT: dict[str, tuple[str, dict[str, Any]]] = {
    "bloom": ("BloomForCausalLM", {"vocab_size": 64, "hidden_size": HIDDEN, "n_head": HEADS, "n_layer": LAYERS}),
    "falcon-7b": ("FalconForCausalLM", FALCON | {"multi_query": True, "new_decoder_architecture": False}),
    "falcon-rw": ("FalconForCausalLM", FALCON | {"multi_query": False, "new_decoder_architecture": False}),
    "falcon-40b": ("FalconForCausalLM", FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2}),
}


@pytest.mark.parametrize("name", OWN_SPLIT)
def test_fused_rows_are_those_of_the_librarys_own_split(name: str, tmp_path: Path) -> None:
    checkpoint = build(*OWN_SPLIT[name], tmp_path)
    assert checkpoint.roles.notes == ()
    assert read_names(checkpoint.entries).needs_config
    split = {t.part: t for t in checkpoint.roles.tensors if t.layer == 1 and t.part and t.role in ("q", "k", "v")}
    biases = {t.part: t for t in checkpoint.roles.tensors if t.layer == 1 and t.role in ("q_bias", "k_bias", "v_bias")}
    attention = layers_of(checkpoint.model)[1].self_attention
    numbers = torch.arange(attention.query_key_value.weight.shape[0])[None, None]
    own = attention._reshape(numbers) if name == "bloom" else attention._split_heads(numbers)
    for part, rows in zip("qkv", own, strict=True):
        expected = list(dict.fromkeys(rows.reshape(-1).tolist()))  # keys come repeated for every query head
        for tensor in (split[part], biases[part]):
            assert tensor.rows is not None
            assert rows_index(tensor.rows).tolist() == expected


ENCODER_DECODER = {
    "vocab_size": 64, "d_model": HIDDEN, "encoder_layers": LAYERS, "decoder_layers": 3,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40,
}  # fmt: skip
TOWER = {"hidden_size": HIDDEN, "num_attention_heads": HEADS, "num_hidden_layers": 3, "intermediate_size": 40}
SEVERAL_STACKS: dict[str, tuple[str, dict[str, Any], dict[str, int]]] = {
    "t5": (
        "T5ForConditionalGeneration",
        {"vocab_size": 64, "d_model": HIDDEN, "d_kv": 8, "d_ff": 40, "num_layers": LAYERS, "num_decoder_layers": 3,
         "num_heads": HEADS, "feed_forward_proj": "gated-gelu"},
        {"main": 3, "encoder": 2, "cross": 3},
    ),
    "bart": ("BartForConditionalGeneration", ENCODER_DECODER, {"main": 3, "encoder": 2, "cross": 3}),
    "whisper": (
        "WhisperForConditionalGeneration",
        ENCODER_DECODER | {"num_mel_bins": 8, "max_source_positions": 8, "max_target_positions": 8, "pad_token_id": 0},
        {"main": 3, "encoder": 2, "cross": 3},
    ),
    "clip": (
        "CLIPModel",
        {"text_config": TOWER | {"vocab_size": 64}, "vision_config": TOWER | {"image_size": 8, "patch_size": 4}},
        {"main": 3, "vision": 3},
    ),
    "vit": ("ViTModel", TOWER | {"image_size": 8, "patch_size": 4}, {"main": 3}),
}  # fmt: skip


@pytest.mark.parametrize("name", SEVERAL_STACKS)
def test_every_stack_is_whole_and_none_mixes(name: str, tmp_path: Path) -> None:
    architecture, options, expected = SEVERAL_STACKS[name]
    checkpoint = build(architecture, options, tmp_path)
    assert checkpoint.roles.notes == ()
    found: dict[str, int] = {}
    for tensor in checkpoint.roles.tensors:
        if tensor.role in ("q", "k", "v", "o"):
            found[tensor.stack] = found.get(tensor.stack, 0) + 1
    assert found == {stack: 4 * n for stack, n in expected.items()}
    dense = [t for t in checkpoint.roles.tensors if t.role in ("up", "down")]
    assert len(dense) == 2 * sum(n for stack, n in expected.items() if stack != "cross")
    assert checkpoint.roles.n_layers == expected["main"]
    main = [t.name for t in checkpoint.roles.tensors if t.stack == "main" and t.role == "q"]
    assert all(("decoder" in name or "text" in name or len(expected) == 1) for name in main)


def test_stacked_experts_on_disk(tmp_path: Path) -> None:
    options = WIDE | {"num_local_experts": 3, "num_experts_per_tok": 2, "intermediate_size": 24}
    checkpoint = build("GptOssForCausalLM", options, tmp_path)
    for number, layer in enumerate(checkpoint.model.model.layers):
        inputs = torch.randn(5, HIDDEN)
        for expert in range(3):
            seen = inputs @ layer.mlp.experts.gate_up_proj[expert]
            for role, own in (("gate", seen[:, ::2]), ("up", seen[:, 1::2])):
                mine = inputs.numpy() @ checkpoint.matrix(role, number, expert).T
                np.testing.assert_allclose(mine, own.detach().numpy(), rtol=1e-4, atol=1e-4)
            down = layer.mlp.experts.down_proj[expert].detach().numpy()
            np.testing.assert_array_equal(checkpoint.matrix("down", number, expert), down.T)
