"""Stems of encoders and of vision and audio towers: the role of a layer's tensor by its name.

`experts.*` in a stem matches any expert number. A stem has the same meaning in all families; exceptions are in
`VARIANTS` in `names.py`, with the other names that indicate them.
"""

from __future__ import annotations

ENCODERS: dict[str, dict[str, str]] = {
    "transformers OPTForCausalLM, BartModel, WhisperModel, CLIPTextModel, SiglipVisionModel": {
        "self_attn.out_proj": "o",
        "fc1": "up",
        "fc2": "down",
        "self_attn_layer_norm": "attn_norm",
        "final_layer_norm": "ffn_norm",
        "layer_norm1": "attn_norm",
        "layer_norm2": "ffn_norm",
    },
    "transformers BertModel, RobertaModel, ElectraModel, ViTModel": {
        "attention.self.query": "q",
        "attention.self.key": "k",
        "attention.self.value": "v",
        "attention.attention.query": "q",
        "attention.attention.key": "k",
        "attention.attention.value": "v",
        "attention.output.dense": "o",
        "intermediate.dense": "up",
        "output.dense": "down",
        "attention.output.LayerNorm": "attn_norm",
        "output.LayerNorm": "ffn_norm",
        "layernorm_before": "attn_norm",
        "layernorm_after": "ffn_norm",
    },
    "transformers MPNetModel": {
        "attention.attn.q": "q",
        "attention.attn.k": "k",
        "attention.attn.v": "v",
        "attention.attn.o": "o",
        "attention.LayerNorm": "attn_norm",
    },
    "transformers DistilBertModel": {
        "attention.q_lin": "q",
        "attention.k_lin": "k",
        "attention.v_lin": "v",
        "attention.out_lin": "o",
        "ffn.lin1": "up",
        "ffn.lin2": "down",
        "sa_layer_norm": "attn_norm",
        "output_layer_norm": "ffn_norm",
    },
    "transformers ModernBertModel": {
        "attn.Wo": "o",
        "mlp.Wo": "down",
        "attn_norm": "attn_norm",
        "mlp_norm": "ffn_norm",
    },
    "transformers T5Model, UMT5Model": {
        "layer.0.SelfAttention.q": "q",
        "layer.0.SelfAttention.k": "k",
        "layer.0.SelfAttention.v": "v",
        "layer.0.SelfAttention.o": "o",
        "layer.0.layer_norm": "attn_norm",
        "layer.1.layer_norm": "ffn_norm",
        **{
            f"layer.{number}.DenseReluDense.{name}": role
            for number in (1, 2)  # the encoder's layers have no cross attention between the two
            for name, role in (("wi", "up"), ("wi_0", "gate"), ("wi_1", "up"), ("wo", "down"))
        },
    },
    "timm VisionTransformer": {"attn.proj": "o", "norm1": "attn_norm", "norm2": "ffn_norm"},
    "transformers AlbertModel; Wav2Vec2Model, Pixtral, Aimv2 and their relatives": {
        "attention.query": "q",
        "attention.key": "k",
        "attention.value": "v",
        "attention.q_proj": "q",
        "attention.k_proj": "k",
        "attention.v_proj": "v",
        "attention.o_proj": "o",
        "attention.out_proj": "o",
        "attention.proj": "o",
        "attention.projection_layer": "o",
        "ffn": "up",
        "ffn_output": "down",
        "ffn.gate_proj": "gate",
        "feed_forward.intermediate_dense": "up",
        "feed_forward.output_dense": "down",
    },
    "transformers SeamlessM4TModel's adapter": {"ffn.intermediate_dense": "up", "ffn.output_dense": "down"},
    "transformers Gemma3nAudioEncoder": {
        "attention.attn.q_proj": "q",
        "attention.attn.k_proj": "k",
        "attention.attn.v_proj": "v",
        "attention.post": "o",
    },
    "transformers Pix2StructModel": {
        "attention.output": "o",
        "self_attention.attention.query": "q",
        "self_attention.attention.key": "k",
        "self_attention.attention.value": "v",
        "self_attention.attention.output": "o",
        "mlp.wi_0": "gate",
        "mlp.wi_1": "up",
        "mlp.wo": "down",
        "mlp.DenseReluDense.wi_0": "gate",
        "mlp.DenseReluDense.wi_1": "up",
        "mlp.DenseReluDense.wo": "down",
    },
    "transformers RfDetrModel (torch.nn.TransformerDecoderLayer)": {"linear1": "up", "linear2": "down"},
    "transformers Qwen2_5OmniThinkerForConditionalGeneration (tower for pictures)": {
        "attn.q": "q",
        "attn.k": "k",
        "attn.v": "v",
    },
    "transformers JanusVisionModel": {"self_attn.projection_layer": "o"},
    "Moonshot's MoonViT (Kimi-VL, Kimi K2.5)": {"wo": "o"},
    "transformers Sam3TrackerModel": {"mlp.proj_in": "up", "mlp.proj_out": "down"},
    "transformers CvtModel": {
        "attention.attention.projection_query": "q",
        "attention.attention.projection_key": "k",
        "attention.attention.projection_value": "v",
    },
    "transformers PatchTSTModel, TimesFm2_5Model": {"ff.0": "up", "ff.3": "down", "mlp.ff0": "up", "mlp.ff1": "down"},
    "transformers DebertaV2Model, SEWDModel": {
        "attention.self.query_proj": "q",
        "attention.self.key_proj": "k",
        "attention.self.value_proj": "v",
    },
    "transformers NomicBertModel, JinaEmbeddingsV3Model, NeoMMEModel": {
        "mlp.fc11": "up",
        "mlp.fc12": "gate",
        "mixer.out_proj": "o",
        "self_attn.output_projection.o_proj": "o",
    },
    "transformers FunnelModel": {
        "attention.q_head": "q",
        "attention.k_head": "k",
        "attention.v_head": "v",
        "attention.post_proj": "o",
        "ffn.linear_1": "up",
        "ffn.linear_2": "down",
    },
    "transformers LEDModel, BigBirdPegasusModel": {
        "self_attn.longformer_self_attn.query": "q",
        "self_attn.longformer_self_attn.key": "k",
        "self_attn.longformer_self_attn.value": "v",
        "self_attn.self.query": "q",
        "self_attn.self.key": "k",
        "self_attn.self.value": "v",
        "self_attn.output": "o",
    },
    "transformers LongT5Model, SwitchTransformersModel": {
        **{
            f"layer.0.{kind}SelfAttention.{role}": role
            for kind in ("Local", "TransientGlobal")
            for role in ("q", "k", "v", "o")
        },
        **{
            f"layer.{number}.mlp.{name}": role
            for number in (1, 2)
            for name, role in (("wi", "up"), ("wo", "down"), ("experts.*.wi", "up"), ("experts.*.wo", "down"))
        },
    },
    "NeMo's conformers and their decoders; transformers ParakeetEncoder, CohereAsr": {
        "self_attn.linear_q": "q",
        "self_attn.linear_k": "k",
        "self_attn.linear_v": "v",
        "self_attn.linear_out": "o",
        "first_sub_layer.query_net": "q",
        "first_sub_layer.key_net": "k",
        "first_sub_layer.value_net": "v",
        "first_sub_layer.out_projection": "o",
        "third_sub_layer.dense_in": "up",
        "third_sub_layer.dense_out": "down",
    },
    "transformers Gemma4AudioModel": {"self_attn.post": "o"},
    "transformers BlipVisionModel, Cosmos3": {
        "self_attn.projection": "o",
        "self_attn.to_q": "q",
        "self_attn.to_k": "k",
        "self_attn.to_v": "v",
        "self_attn.to_out": "o",
    },
    "diffusers Attention and FeedForward, in transformers of pictures (DiT, PixArt, SD3, Flux)": {
        **{
            f"{module}.{name}": role
            for module in ("attn", "attn1")
            for name, role in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "o"))
        },
        "ff.net.0.proj": "up",
        "ff.net.2": "down",
    },
    "x-transformers AttentionLayers; other code of its author": {
        **{
            f"{module}.{name}": role
            for module in ("0", "0.fn", "1", "1.fn", "attn", "self_attn", "attention")
            for name, role in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out", "o"), ("to_out.0", "o"))
        },
        "1.ff.0.0": "up",
        "1.ff.2": "down",
    },
    "transformers SqueezeBertModel (its query, key and value are grouped: narrower than the residual stream)": {
        "post_attention.conv1d": "o",
    },
    "transformers Sapiens2Model; SAM, Qwen3-VL, SegFormer": {
        "attn.wq": "q",
        "attn.wk": "k",
        "attn.wv": "v",
        "ffn.w3": "down",
        "mlp.lin1": "up",
        "mlp.lin2": "down",
        "mlp.linear_fc1": "up",
        "mlp.linear_fc2": "down",
        "mlp.dense1": "up",
        "mlp.dense2": "down",
    },
}
