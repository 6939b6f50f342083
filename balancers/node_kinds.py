"""Kinds of nodes of the autograd graph, by what they mean to the weights that they use."""

from __future__ import annotations

import re
from typing import Any


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Give a weight in another shape or precision.
VIEWS = _words(
    "T Transpose Permute View UnsafeView ReshapeAlias Expand ToCopy Clone Alias Select Slice Split SplitWithSizes "
    "Unbind Squeeze Unsqueeze AsStrided"
)
# Compute a weight, or a penalty on it, from parameters: masks, weight and spectral norm, low-rank additions.
ARITHMETIC = _words(
    "Mul Div Add Sub Neg Exp Pow Sqrt Rsqrt Abs Tanh Sigmoid Softplus Relu Clamp WeightNormInterface Norm Sum Mean "
    "LinalgVectorNorm FakeQuantizePerTensorAffineCachemask"
)
# The same, where all factors are parameters; else they are layers.
MATRIX_PRODUCTS = _words("Mm Bmm Mv Dot")
_NORMS = _words("NativeBatchNorm CudnnBatchNorm MiopenBatchNorm NativeLayerNorm NativeGroupNorm FusedRmsNorm")
# Add a parameter to features, scale, join or replace them by it: it is no layer, whatever its shape.
NO_LAYERS = _NORMS | _words("Mul Div Add Sub Addcmul Where Cat Stack")
# Where one factor is zero, the gradient of the other is zero until training moves the first.
PRODUCTS = _NORMS | _words("Mm Addmm Bmm Baddbmm Mv Addmv Dot Mul Linear Convolution")
# Look rows up in a table.
LOOKUPS = _words("Embedding EmbeddingBag Index IndexSelect Gather")
# Use many weights in one operation, which shows no order.
OPAQUE = {"CompiledFunction": "a compiled module", "Broadcast": "a `DataParallel`"}


def kind_of(node: Any) -> str:
    """The operation of a node, as ``"Addmm"`` of an ``AddmmBackward0``."""
    return re.sub(r"Backward\d*$", "", node.name())
