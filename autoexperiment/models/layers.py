"""The layers of the networks, as pure functions of MLX arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import autoexperiment.blas  # noqa: F401  # before mlx.core

import mlx.core as mx  # isort: skip

_TINY = 1e-5  # added to a variance before its root is divided by: Wu & He 2018, equation 1
ACTIVATIONS: Mapping[str, Callable[[mx.array], mx.array]] = {
    "relu": lambda x: mx.maximum(x, 0),
    "tanh": mx.tanh,
    "sigmoid": mx.sigmoid,
}


def dense(x: mx.array, weights: mx.array, bias: mx.array) -> mx.array:
    """x of shape (n, inputs), weights (inputs, outputs), bias (outputs,)."""
    return mx.addmm(bias, x, weights)


def convolution(x: mx.array, weights: mx.array, *, stride: int = 1) -> mx.array:
    """3 x 3, padded with zeros: x of shape (n, height, width, channels), weights (outputs, 3, 3, channels)."""
    return mx.conv2d(x, weights, stride=stride, padding=1)


def group_norm(x: mx.array, scale: mx.array, bias: mx.array, *, groups: int) -> mx.array:
    """Each row's groups of channels brought to mean 0 and variance 1, then scaled and shifted by channel.

    Args: x: shape (n, height, width, channels); scale, bias: shape (channels,).
    Source: Wu & He 2018. No running averages: a row's result does not depend on its batch.
    """
    n, height, width, channels = x.shape
    grouped = x.reshape(n, height * width, groups, channels // groups)
    grouped = grouped - mx.mean(grouped, axis=(1, 3), keepdims=True)
    variance = mx.mean(mx.square(grouped), axis=(1, 3), keepdims=True)
    return (grouped * mx.rsqrt(variance + _TINY)).reshape(x.shape) * scale + bias


def shortcut(x: mx.array, channels: int, *, stride: int) -> mx.array:
    """A block's input in the shape of its output: every `stride`-th pixel, and channels of zeros.

    Source: He et al. 2016, option A of section 3.3, which has no parameters.
    """
    kept = x[:, ::stride, ::stride, :]
    return mx.pad(kept, [(0, 0), (0, 0), (0, 0), (0, channels - x.shape[-1])]) if channels > x.shape[-1] else kept
