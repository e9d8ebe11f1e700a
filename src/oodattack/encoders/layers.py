"""Capture the values of a model's layers, and find the layer to use as the latent.

A layer is named by a string: `NAME` is the output of that submodule, `input of NAME` its first input, and
`output` the model's output.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from oodattack.core.errors import InputError
from oodattack.encoders.messages import nearest

OUTPUT = "output"
INPUT_OF = "input of "


def record(model: nn.Module, layers: Sequence[str], x: Tensor) -> list[Tensor]:
    """Run the model once and return its output followed by the value of each layer.

    The hooks are removed when the call ends. For a module called more than once, the last call is recorded.

    Args:
        model: any module that takes a batch of images as its only argument.
        layers: names as described at the top of this module.
        x: `(B, 3, H, W)`.

    Returns:
        `1 + len(layers)` tensors, attached to the autograd graph.

    Raises:
        InputError: if a layer does not exist, is not called, or returns no tensor.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2))
    >>> [tuple(t.shape) for t in record(net, ["1", "input of 3"], torch.zeros(4, 3, 2, 2))]
    [(4, 2), (4, 5), (4, 5)]
    """
    seen: dict[str, Tensor] = {}

    def keep(layer: str, value: object) -> None:
        # Cloned, because a later in-place operation (ReLU, +=) would overwrite the recorded value.
        seen[layer] = first_tensor(value, layer).clone()

    with ExitStack() as hooks:  # removes the hooks even after an exception
        for layer in layers:
            if layer != OUTPUT:
                hooks.enter_context(_hook(model, layer, keep))
        output = first_tensor(model(x), OUTPUT)
    seen[OUTPUT] = output
    if silent := [layer for layer in layers if layer not in seen]:
        raise InputError(f"expected layers that the forward pass calls, got {', '.join(map(repr, silent))}")
    return [output, *(seen[layer] for layer in layers)]


def find_head(model: nn.Module, x: Tensor) -> str | None:
    """Find the last module called that has a 2-D weight `(out, in)` and receives `(B, in)`; None if there is none.

    The test is on shapes rather than classes, so that it also works for exported models and custom linear layers.

    >>> find_head(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.zeros(2, 3, 2, 2))
    '1'
    """
    heads: list[str] = []

    def watch(name: str, inputs: int) -> Callable[..., None]:
        def hook(_module: nn.Module, args: object, kwargs: object) -> None:
            if [tensor.shape for tensor in _tensors([args, kwargs])] == [(len(x), inputs)]:
                heads.append(name)

        return hook

    with ExitStack() as hooks:
        for name, module in hookable(model).items():
            weight = getattr(module, "weight", None)
            if isinstance(weight, Tensor) and weight.ndim == 2:
                hooks.enter_context(module.register_forward_pre_hook(watch(name, weight.shape[1]), with_kwargs=True))
        model(x)
    return heads[-1] if heads else None


def hookable(model: nn.Module) -> dict[str, nn.Module]:
    """The submodules by name, except TorchScript modules, which do not accept hooks.

    >>> list(hookable(nn.Sequential(nn.Flatten(), nn.ReLU())))
    ['0', '1']
    """
    return {
        name: module
        for name, module in model.named_modules()
        if name and not isinstance(module, torch.jit.ScriptModule)
    }


def check_layers(model: nn.Module, layers: Sequence[str]) -> None:
    """Raise InputError, suggesting the nearest names, if the model lacks one of the layers.

    >>> check_layers(nn.Sequential(nn.Flatten(), nn.ReLU()), ["input of 1", "output"])
    """
    names = list(hookable(model))
    for layer in layers:
        name = layer.removeprefix(INPUT_OF)
        if layer == OUTPUT or name in names:
            continue
        if not names:
            raise InputError(
                f"expected layer=output, got {layer!r}; the layers of this model cannot be read "
                "(TorchScript allows no hooks; load the original PyTorch model with python: instead)"
            )
        near = nearest(name, names, 15)
        more = f" and {len(names) - len(near)} more" if len(names) > len(near) else ""
        raise InputError(f"expected a layer of the model, got {name!r}; nearest: {', '.join(near)}{more}")


def first_tensor(value: object, source: str) -> Tensor:
    """The first tensor in a model's output, which may be nested in tuples, mappings and dataclasses.

    >>> first_tensor({"loss": None, "logits": torch.zeros(2)}, "output")
    tensor([0., 0.])
    """
    for tensor in _tensors(value):
        return tensor
    raise InputError(f"expected a tensor from {source!r}, got {type(value).__name__}")


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif dataclasses.is_dataclass(value):
        yield from _tensors([getattr(value, field.name) for field in dataclasses.fields(value)])
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _hook(model: nn.Module, layer: str, keep: Callable[[str, object], None]) -> torch.utils.hooks.RemovableHandle:
    module = model.get_submodule(layer.removeprefix(INPUT_OF))
    if layer.startswith(INPUT_OF):
        return module.register_forward_pre_hook(
            lambda _module, args, kwargs: keep(layer, [args, kwargs]), with_kwargs=True
        )
    return module.register_forward_hook(lambda _module, _args, output: keep(layer, output))
