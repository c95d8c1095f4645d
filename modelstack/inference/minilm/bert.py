"""BERT's encoder in numpy: the forward pass of a small sentence encoder, without torch.

Source: Devlin et al., "BERT" (https://arxiv.org/abs/1810.04805); tensor names are those of transformers.
Texts are packed: the tokens of all texts stand in one matrix, so that the matrix products need no padding. Only
attention separates texts; texts of one length are attended together.

Letters: T tokens of a batch, D width, F width of the feed-forward layer, H heads, K width of a head, L tokens of a
text, M texts of that length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from modelstack.errors import UserError

Array = NDArray[np.float32]

MAX_WIDTH, MAX_LAYERS = 4_096, 64
"""Limits of a config: beyond any sentence encoder; a hostile file must not claim more memory than it holds."""
ROWS_TOGETHER = 64
"""Tokens whose feed-forward states fit the second-level cache (64 x 1,536 x 4 bytes) during the GELU."""


@dataclass(frozen=True, slots=True)
class BertConfig:
    """The keys of a Hugging Face `config.json` that the forward pass needs."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    layer_norm_eps: float = 1e-12

    @classmethod
    def of(cls, table: Mapping[str, object]) -> BertConfig:
        """Check a parsed `config.json`.

        Raises:
            UserError: It is not the config of a BERT encoder that this file computes.
        """
        required = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
        for key, value in required.items():
            if table.get(key, value) != value:
                raise UserError(f"config.json has {key}={table[key]!r}; the encoder computes {value!r} only.")
        names = [name for name in cls.__slots__ if name != "layer_norm_eps"]
        numbers: dict[str, int] = {}
        for name in names:
            number = table.get(name)
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                raise UserError(f"config.json has {name}={number!r}; it must be a whole number from 1.")
            numbers[name] = number
        eps = table.get("layer_norm_eps", 1e-12)
        if not isinstance(eps, (int, float)) or not 0 < eps < 1:
            raise UserError(f"config.json has layer_norm_eps={eps!r}; it must be between 0 and 1.")
        config = cls(**numbers, layer_norm_eps=float(eps))
        if max(config.hidden_size, config.intermediate_size) > MAX_WIDTH or config.num_hidden_layers > MAX_LAYERS:
            raise UserError(
                f"config.json describes {config.num_hidden_layers} layers of width {config.hidden_size}; at most "
                f"{MAX_LAYERS} layers of width {MAX_WIDTH} are loaded."
            )
        if config.hidden_size % config.num_attention_heads:
            raise UserError(
                f"config.json has hidden_size={config.hidden_size}, which num_attention_heads="
                f"{config.num_attention_heads} does not divide."
            )
        return config


@dataclass(frozen=True, slots=True)
class _Layer:
    qkv_DE: Array
    """Weights of query, key and value side by side: E = 3 D."""
    qkv_E: Array
    output_DD: Array
    output_D: Array
    norm_attention: tuple[Array, Array]
    up_DF: Array
    up_F: Array
    down_FD: Array
    down_D: Array
    norm: tuple[Array, Array]


class Bert:
    """The encoder with its weights."""

    def __init__(self, config: BertConfig, tensors: Mapping[str, NDArray[np.generic]]) -> None:
        """Arrange the weights.

        Raises:
            UserError: A tensor is missing, has another shape, or is not finite.
        """
        self.config = config
        take = _Tensors(tensors).take
        D, F = config.hidden_size, config.intermediate_size
        self._words_VD = take("embeddings.word_embeddings.weight", config.vocab_size, D)
        positions_PD = take("embeddings.position_embeddings.weight", config.max_position_embeddings, D)
        self._places_PD = positions_PD + take("embeddings.token_type_embeddings.weight", None, D)[0]
        self._norm = take("embeddings.LayerNorm.weight", D), take("embeddings.LayerNorm.bias", D)
        self._layers: list[_Layer] = []
        for number in range(config.num_hidden_layers):
            at = f"encoder.layer.{number}."
            parts = [f"{at}attention.self.{part}" for part in ("query", "key", "value")]
            dense, norm = f"{at}attention.output.dense", f"{at}attention.output.LayerNorm"
            layer = _Layer(
                qkv_DE=np.concatenate([take(f"{part}.weight", D, D).T for part in parts], axis=1),
                qkv_E=np.concatenate([take(f"{part}.bias", D) for part in parts]),
                output_DD=_transposed(take(f"{dense}.weight", D, D)),
                output_D=take(f"{dense}.bias", D),
                norm_attention=(take(f"{norm}.weight", D), take(f"{norm}.bias", D)),
                up_DF=_transposed(take(f"{at}intermediate.dense.weight", F, D)),
                up_F=take(f"{at}intermediate.dense.bias", F),
                down_FD=_transposed(take(f"{at}output.dense.weight", D, F)),
                down_D=take(f"{at}output.dense.bias", D),
                norm=(take(f"{at}output.LayerNorm.weight", D), take(f"{at}output.LayerNorm.bias", D)),
            )
            self._layers.append(layer)

    def mean_states(self, texts: Sequence[Sequence[int]]) -> Array:
        """Return the mean of the last states of each text, [N, D].

        Args:
            texts: Token ids of each text, in ascending order of length; each has at least one token.
        """
        lengths = [len(ids) for ids in texts]
        ids_T = np.fromiter((token for ids in texts for token in ids), np.int64, sum(lengths))
        places_T = np.concatenate([np.arange(length) for length in lengths])
        x_TD = self._words_VD[ids_T]
        x_TD += self._places_PD[places_T]
        _normalise(x_TD, self._norm, self.config.layer_norm_eps)
        runs = [(length, len(list(same))) for length, same in groupby(lengths)]
        for layer in self._layers:
            x_TD = self._through(layer, x_TD, runs)
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        sums_ND: Array = np.add.reduceat(x_TD, starts, axis=0)
        return sums_ND / np.asarray(lengths, np.float32)[:, None]

    def _through(self, layer: _Layer, x_TD: Array, runs: Sequence[tuple[int, int]]) -> Array:
        eps = self.config.layer_norm_eps
        y_TD: Array = self._attended(x_TD @ layer.qkv_DE + layer.qkv_E, runs) @ layer.output_DD
        y_TD += layer.output_D
        y_TD += x_TD
        _normalise(y_TD, layer.norm_attention, eps)
        up_TF: Array = y_TD @ layer.up_DF
        for start in range(0, len(up_TF), ROWS_TOGETHER):
            rows_F = up_TF[start : start + ROWS_TOGETHER]
            rows_F += layer.up_F
            _gelu(rows_F)
        z_TD: Array = up_TF @ layer.down_FD
        z_TD += layer.down_D
        z_TD += y_TD
        _normalise(z_TD, layer.norm, eps)
        return z_TD

    def _attended(self, qkv_TE: Array, runs: Sequence[tuple[int, int]]) -> Array:
        H = self.config.num_attention_heads
        D = self.config.hidden_size
        K = D // H
        result_TD = np.empty((len(qkv_TE), D), np.float32)
        start = 0
        for length, count in runs:
            stop = start + length * count
            q_MHLK, k_MHLK, v_MHLK = qkv_TE[start:stop].reshape(count, length, 3, H, K).transpose(2, 0, 3, 1, 4)
            p_MHLL = q_MHLK @ k_MHLK.swapaxes(-1, -2)
            p_MHLL *= np.float32(K**-0.5)
            p_MHLL -= p_MHLL.max(axis=-1, keepdims=True)
            np.exp(p_MHLL, out=p_MHLL)
            p_MHLL /= p_MHLL.sum(axis=-1, keepdims=True)
            mixed_MHLK = p_MHLL @ v_MHLK
            result_TD[start:stop] = mixed_MHLK.transpose(0, 2, 1, 3).reshape(stop - start, D)
            start = stop
        return result_TD


class _Tensors:
    """Checked access to the tensors of a file; a sentence encoder may store them below `bert.`."""

    def __init__(self, tensors: Mapping[str, NDArray[np.generic]]) -> None:
        self._tensors = {name.removeprefix("bert."): tensor for name, tensor in tensors.items()}

    def take(self, name: str, *shape: int | None) -> Array:
        tensor = self._tensors.get(name)
        if tensor is None:
            raise UserError(f"the weights have no tensor {name!r}; the file is not a BERT encoder's.")
        fits = len(tensor.shape) == len(shape) and all(
            want in (None, have) for want, have in zip(shape, tensor.shape, strict=True)
        )
        if not fits or not tensor.size:
            raise UserError(f"tensor {name!r} has the shape {tensor.shape}; config.json says {shape}.")
        values = np.ascontiguousarray(tensor, dtype=np.float32)
        if not np.isfinite(values).all():
            raise UserError(f"tensor {name!r} has values that are not finite; the file is damaged.")
        return values


def _transposed(weight: Array) -> Array:
    return np.ascontiguousarray(weight.T)


def _normalise(x_TD: Array, norm: tuple[Array, Array], eps: float) -> None:
    """Apply layer normalisation in place."""
    weight_D, bias_D = norm
    x_TD -= x_TD.mean(axis=-1, keepdims=True)
    variance_T = np.einsum("td,td->t", x_TD, x_TD) / np.float32(x_TD.shape[1])
    x_TD *= (1.0 / np.sqrt(variance_T + np.float32(eps)))[:, None]
    x_TD *= weight_D
    x_TD += bias_D


def _gelu(x: Array) -> None:
    """Apply GELU in place: x times the normal distribution function.

    The error function is formula 7.1.26 of Abramowitz and Stegun, whose error is below 1.5e-7.
    """
    z = np.abs(x)
    z *= np.float32(0.7071067811865476)
    t = 1.0 / (1.0 + np.float32(0.3275911) * z)
    series = t * np.float32(1.061405429)
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series += np.float32(coefficient)
        series *= t
    z *= z
    np.negative(z, out=z)
    np.exp(z, out=z)
    series *= z  # erfc(|x| / sqrt 2)
    series *= np.float32(0.5)
    np.subtract(1.0, series, out=series, where=x >= 0)
    x *= series
