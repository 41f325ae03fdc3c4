"""The model's graph for TensorBoard's GRAPHS tab: the operations that one forward pass really ran, in their modules.

Every operation that reaches a kernel passes a `TorchDispatchMode`, with the tensors it reads and those it returns;
module hooks say in whose `forward` it ran. Nothing is compiled, so whatever runs can be drawn: hand-written autograd
Functions, loops over data, and code outside of torch, which becomes one node with its module's name.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from tensorboard.compat.proto.attr_value_pb2 import AttrValue
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.node_def_pb2 import NodeDef
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.versions_pb2 import VersionDef
from torch import Tensor, nn

from trainer.system.private import Watching
from trainer.trees import Tree, called, leaves
from trainer.trials import undisturbed


def model_graph(model: nn.Module, inputs: Tree) -> tuple[GraphDef | None, str]:
    """The graph of `model(inputs)` in eval mode, and an empty string; or None and why there is none.

    The modes of all modules, the buffers and the random state are afterwards what they were.

    Args:
        inputs: a batch as the model sees it; one or two samples are enough.
    """
    with undisturbed(model, leaves(inputs)[0].device):
        try:
            recorder = _Recorder(model, inputs)
            with recorder.hooks(), recorder:
                outputs = called(model, inputs)
            for tensor in leaves(outputs):
                recorder.add("output", "Output", [tensor], [])
        except Exception as error:  # a picture is no reason to end a run
            return None, f"{type(error).__name__}: {error}".splitlines()[0]
    return GraphDef(node=recorder.nodes, versions=VersionDef(producer=22)), ""


# Operations that hand on what they are given, and one that makes what nobody has filled yet: no nodes of their own.
_ALIASES = {"detach", "alias", "lift_fresh"}
_NO_NODES = _ALIASES | {"empty"}


class _Recorder(Watching):
    """Turns what runs into nodes, named after the place where it ran: `layer1/0/conv1/convolution`."""

    def __init__(self, model: nn.Module, inputs: Tree) -> None:
        super().__init__()
        self.nodes: list[NodeDef] = []
        self._paths = {module: path for path, module in model.named_modules()}
        self._stored = {id(tensor): name for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
        self._open = [("", 0)]  # paths of the modules we are in, and how many nodes there were before each
        self._num_called: Counter[str] = Counter()
        self._makers: dict[int, str] = {}  # id of a tensor: the node that made it, or that last wrote into it
        self._kept: list[Tensor] = []  # an id is a tensor's own only for as long as it lives
        self.add("input", "Input", [], leaves(inputs))

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """While open, every module says when its forward begins and ends."""
        with ExitStack() as handles:
            for module in self._paths:
                handles.callback(module.register_forward_pre_hook(self._enter).remove)
                handles.callback(module.register_forward_hook(self._leave).remove)
            yield

    def add(self, path: str, operation: str, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        """A node, and one for each parameter and buffer that it is the first to read."""
        for tensor in inputs:
            if id(tensor) not in self._makers and id(tensor) in self._stored:
                kind = "Parameter" if isinstance(tensor, nn.Parameter) else "Buffer"
                self.add(self._stored[id(tensor)], kind, [], [tensor])
        name = path.strip(".").replace(".", "/")
        self._num_called[name] += 1
        if (count := self._num_called[name]) > 1:
            name = f"{name}_{count - 1}"
        shapes = [TensorShapeProto(dim=[{"size": size} for size in tensor.shape]) for tensor in outputs]
        node = NodeDef(
            name=name,
            op=operation,
            input=[self._makers[id(tensor)] for tensor in inputs if id(tensor) in self._makers],
            attr={"_output_shapes": AttrValue(list=AttrValue.ListValue(shape=shapes))},
        )
        self.nodes.append(node)
        for i, tensor in enumerate(outputs):
            self._makers[id(tensor)] = f"{name}:{i}" if i else name
        self._kept += outputs

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        outputs = func(*args, **kwargs)
        operation = func.overloadpacket.__name__
        read, made = leaves((args, kwargs)), leaves(outputs)
        if operation not in _NO_NODES:
            self.add(f"{self._open[-1][0]}.{operation.strip('_')}", operation, read, made)
        elif operation in _ALIASES and id(read[0]) in self._makers:
            self._makers[id(made[0])] = self._makers[id(read[0])]
            self._kept += made
        return outputs

    def _enter(self, module: nn.Module, args: Any) -> None:
        self._open.append((self._paths[module], len(self.nodes)))

    def _leave(self, module: nn.Module, args: Any, outputs: Any) -> Any:
        path, num_nodes = self._open.pop()
        is_silent = len(self.nodes) == num_nodes  # dropout in eval mode, an identity
        made = leaves(outputs)
        if is_silent and isinstance(outputs, Tensor):
            # What comes out may be what went in: as a tensor object of its own, it is told apart by who reads it.
            made = [outputs := outputs.detach()]
        made = [tensor for tensor in made if is_silent or id(tensor) not in self._makers]
        if made:  # by nothing that we saw: also what left torch on its way
            name = type(module).__name__
            self.add(f"{path}.{name}", name, [*leaves(args), *module.parameters(recurse=False)], made)
        return outputs
