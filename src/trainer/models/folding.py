"""Batch norms that no longer learn, as part of the convolutions before them."""

import copy

import torch.fx
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def folded(network: nn.Module) -> nn.Module:
    """A copy in eval mode that computes the same, but for rounding, with fewer passes over the maps.

    In eval mode a batch norm multiplies and adds constants per channel, and so does a convolution with other weights
    and another bias.

    Raises:
        Exception: of any kind: torch.fx can't follow the network's `forward`, as where it branches on its inputs.
    """
    traced = torch.fx.symbolic_trace(copy.deepcopy(network).eval())
    called = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    for node in list(traced.graph.nodes):
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(before, torch.fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        convolution, norm = (traced.get_submodule(str(n.target)) for n in (before, node))
        is_once = called.count(before.target) == called.count(node.target) == 1
        if is_once and type(convolution) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.track_running_stats:
            traced.set_submodule(str(before.target), fuse_conv_bn_eval(convolution, norm))
            node.replace_all_uses_with(before)
            traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced
