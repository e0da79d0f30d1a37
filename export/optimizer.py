"""Tidying a traced graph: what can be computed is computed, what is done twice or to no effect is removed.

The passes and rules are those of onnx-ir and onnxscript. `ONNXProgram.optimize` has them too, but tries all
of onnxscript's rules at every node, four of five of which are for operators that our modules are not traced
to (convolutions, clips, dropout, scattering), which takes longer than all the rest of it.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import Sequential, common
from onnxscript.optimizer import fold_constants
from onnxscript.rewriter import RewritePass, RewriteRule
from onnxscript.rewriter.rules import common as rules

__all__ = ["optimize"]

_ROUNDS = 2
_RULES: tuple[RewriteRule, ...] = (
    *rules.mul_by_1_rule.commute(),
    *rules.add_0_rule.commute(),
    rules.sub_0_rule,
    rules.div_by_1_rule,
    rules.collapse_slice_rule,
    rules.collapse_slice2_rule,
    rules.materialize_reshape_shape_rule,
    rules.cast_cast_rule,
    rules.no_op_cast_rule,
    rules.no_op_expand_rule,
    rules.flatten_to_reshape_rule,  # before reshape_reshape_rule, says onnxscript
    rules.reshape_reshape_rule,
    rules.no_op_transpose_rule,
    rules.transpose_transpose_rule,
    rules.unsqueeze_unsqueeze_rule,
    rules.squeeze_reshape_1d_rule,
)


def optimize(model: ir.Model) -> None:
    """Tidy a model in place."""
    common.InlinePass()(model)
    tidy = Sequential(
        RewritePass(_RULES),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass(),
    )
    for _ in range(_ROUNDS):
        folded = fold_constants(model, onnx_shape_inference=True).modified
        if not tidy(model).modified and not folded:
            break
    Sequential(
        common.RemoveUnusedNodesPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )(model)
