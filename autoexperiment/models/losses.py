"""What training makes smaller, as functions of a network's raw outputs. Each is a mean over the rows of a batch."""

from __future__ import annotations

import autoexperiment.blas  # noqa: F401  # before mlx.core

import mlx.core as mx  # isort: skip

from autoexperiment.models.heads import Head, Kind


def loss(head: Head, raw: mx.array, y: mx.array) -> mx.array:
    """The loss that fits the head, a scalar.

    Args:
        raw: shape (n, head.n_outputs), before the output activation.
        y: shape (n,): targets, or int class numbers.
    """
    if head.kind == Kind.SQUARED:
        return squared_error(raw[:, 0], y, is_sigmoid=head.activation == "sigmoid")
    if head.kind == Kind.BINARY:
        return mx.mean(mx.logaddexp(raw[:, 0], 0.0) - raw[:, 0] * y)
    if head.kind == Kind.ONE_VS_REST:
        return one_vs_rest(raw, y)
    return cross_entropy(raw, y)


def squared_error(raw: mx.array, y: mx.array, *, is_sigmoid: bool) -> mx.array:
    return mx.mean(mx.square((mx.sigmoid(raw) if is_sigmoid else raw) - y))


def cross_entropy(raw: mx.array, y: mx.array) -> mx.array:
    chosen = mx.take_along_axis(raw, y[:, None], axis=1)[:, 0]
    return mx.mean(mx.logsumexp(raw, axis=1) - chosen)


def one_vs_rest(raw: mx.array, y: mx.array) -> mx.array:
    """Binary cross-entropy of each class against the rest, mean over rows and classes."""
    is_true = mx.arange(raw.shape[1])[None, :] == y[:, None]
    return mx.mean(mx.logaddexp(raw, 0.0) - raw * is_true)


def correct(head: Head, raw: mx.array, y: mx.array) -> mx.array:
    """How many rows get their own class as the likeliest one, a scalar int."""
    predicted = raw[:, 0] > 0 if head.kind == Kind.BINARY else mx.argmax(raw, axis=1)
    return mx.sum(predicted == y)
