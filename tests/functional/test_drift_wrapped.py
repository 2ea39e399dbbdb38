"""Parameter drift of models inside wrappers, and its base by names: after saving, in any order."""

import copy
import io
import re

import pytest
import torch
import torch.distributed as dist
from drift_lists import model
from torch import nn

import gaussreg_fast as gf


class Layers(nn.Module):
    """Layers of one shape, in the order of their names."""

    def __init__(self, names, size=3):
        super().__init__()
        for name in names:
            setattr(self, name, nn.Linear(size, size))


class Like(nn.Module):
    """Another model's parameters under new names, as a wrapper shows them."""

    def __init__(self, net, rename):
        super().__init__()
        self.net, self.rename = net, rename

    def named_parameters(self, *args, **kwargs):
        return ((self.rename(name), p) for name, p in self.net.named_parameters(*args, **kwargs))


@pytest.fixture
def one_process(tmp_path):
    """A group of this process alone, for wrappers that need one."""
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("torch without gloo")
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def peft_names(name):
    """Returns PEFT's name of a frozen parameter; the layer "2" has an adapter."""
    return "base_model.model." + name.replace("2.", "2.base_layer.")


def checkpointed(net):
    from torch.distributed.algorithms._checkpoint import checkpoint_wrapper

    net[0] = checkpoint_wrapper.checkpoint_wrapper(net[0])
    return net


def compiled_inside(net):
    net[0] = torch.compile(net[0])
    return net


WRAPPERS = {
    "torch.compile": torch.compile,
    "a compiled layer": compiled_inside,
    "DataParallel": nn.DataParallel,
    "DataParallel of compiled": lambda net: nn.DataParallel(torch.compile(net)),
    "compiled DataParallel": lambda net: torch.compile(nn.DataParallel(net)),
    "AveragedModel": torch.optim.swa_utils.AveragedModel,
    "checkpoint_wrapper": checkpointed,
    "PEFT's names": lambda net: Like(net, peft_names),
    "DataParallel of PEFT's": lambda net: Like(net, lambda name: f"module.{peft_names(name)}"),
}


def check_wrapped(net, wrapped):
    """Checks all ways to pass a model and its wrapped form, against the model as it is."""
    plain = copy.deepcopy(net)
    drift = gf.ParameterDrift(plain, weight=0.5)
    with torch.no_grad():
        for p in plain.parameters():
            p.add_(0.25)
        for p in wrapped.parameters():
            p.add_(0.25)
    want = drift(plain)
    assert want > 0
    assert torch.equal(drift(wrapped), want)
    assert torch.equal(drift(dict(reversed(list(wrapped.named_parameters())))), want)
    of_wrapped = gf.ParameterDrift(wrapped, weight=0.5)
    assert of_wrapped(plain) == 0
    assert of_wrapped.state_dict().keys() == drift.state_dict().keys()
    of_wrapped.load_state_dict(drift.state_dict())
    assert torch.equal(of_wrapped(wrapped), want)
    gf.parameter_drift_decay_(wrapped, drift.base, rate=1e3)
    assert drift(wrapped) < 1e-6


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapped_model_is_compared_with_the_base_of_the_plain_one(wrapper):
    net = model()
    check_wrapped(net, WRAPPERS[wrapper](copy.deepcopy(net)))


def test_a_model_under_ddp(one_process):
    net = model()
    check_wrapped(net, nn.parallel.DistributedDataParallel(copy.deepcopy(net)))


def test_a_model_under_fsdp1(one_process):
    """Layer by layer, so that its names have the wrapper's part twice."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    def wrap(part):
        cpu = torch.device("cpu")
        return FullyShardedDataParallel(part, use_orig_params=True, device_id=cpu)

    net = model()
    sharded = copy.deepcopy(net)
    sharded[2] = wrap(sharded[2])
    check_wrapped(net, wrap(sharded))


def test_a_model_under_fully_shard_has_its_own_names(one_process):
    from torch.distributed.fsdp import fully_shard

    net = model()
    fully_shard(net)
    drift = gf.ParameterDrift(net)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.5)
    count = sum(p.numel() for p in net.parameters())
    torch.testing.assert_close(drift(torch.compile(net)), torch.tensor(0.25 * count))


def test_wrapped_names_are_understood_by_compiled_code():
    net = model()
    drift = gf.ParameterDrift(net)
    wrapped = nn.DataParallel(model(1))
    call = torch.compile(lambda: drift(wrapped), backend="eager", fullgraph=True)
    torch.testing.assert_close(call(), drift(wrapped))


def test_a_name_that_a_wrapper_would_use_too_stays_apart():
    """Names that would become the same without the parts of wrappers are left as they are."""
    params = {"weight": torch.ones(2), "module.weight": torch.zeros(2)}
    drift = gf.ParameterDrift(params)
    assert drift(dict(reversed(params.items()))) == 0
    with pytest.raises(ValueError, match="base has no tensor for"):
        drift({"module.module.weight": params["module.weight"], "other": params["weight"]})


@pytest.mark.parametrize(
    ("prefixes", "said"),
    [
        (("unet.", ""), "begin with '' where those of params begin with 'unet.'"),
        (("", "net."), "begin with 'net.' where those of params begin with ''"),
        (("a.up.", "b.up."), "begin with 'b.' where those of params begin with 'a.'"),
    ],
)
def test_prefixes_that_no_wrapper_adds_are_named(prefixes, said):
    params, base = (
        {f"{prefix}{name}": p.detach().clone() for name, p in model().named_parameters()}
        for prefix in prefixes
    )
    with pytest.raises(ValueError, match=re.escape(said)):
        gf.parameter_drift(params, base)


def test_adapters_are_not_taken_for_parameters_of_the_base():
    net = model()
    drift = gf.ParameterDrift(net)
    named = {f"base_model.model.{name}": p for name, p in net.named_parameters()}
    named["base_model.model.2.lora_A.default.weight"] = torch.ones(2, 7)
    with pytest.raises(ValueError, match=r"lora_A.default.weight'; list params without adapters"):
        drift(named)


# ---------------------------------------------------------------- states


def test_a_state_is_loaded_by_name_whatever_the_order():
    first, second = Layers(["a", "b", "c"]), Layers(["c", "a", "b"])
    second.load_state_dict(first.state_dict())
    state = gf.ParameterDrift(first).state_dict()
    drift = gf.ParameterDrift(Layers(["c", "a", "b"]))
    drift.load_state_dict(state)
    assert drift(second) == 0
    assert drift(first) == 0


def test_a_state_of_other_names_or_shapes_is_refused():
    state = gf.ParameterDrift(Layers(["a", "b"])).state_dict()
    for names, size, said in (
        (["a", "c"], 3, "Missing key.*base/c/weight"),
        ("ab", 4, "size mism"),
    ):
        with pytest.raises(RuntimeError, match=f"(?s){said}"):
            gf.ParameterDrift(Layers(names, size)).load_state_dict(state)
    by_position = gf.ParameterDrift(Layers(["a", "b"]).parameters())
    with pytest.raises(RuntimeError, match="Unexpected key"):
        by_position.load_state_dict(state)


def test_names_that_no_module_has_are_saved_too():
    names = ["weight", "type", "training", "a.b", "a/b", "a~1b", "a~b", "", ".", 3]
    params = {name: torch.full((2,), float(i)) for i, name in enumerate(names)}
    drift = gf.ParameterDrift(params)
    assert len(drift.state_dict()) == len(names)
    again = gf.ParameterDrift({name: torch.zeros(2) for name in reversed(names)})
    file = io.BytesIO()
    torch.save(drift.state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file))
    for other in (again, copy.deepcopy(drift)):
        assert all(torch.equal(other.base[name], p) for name, p in params.items())
        assert other(params) == 0
