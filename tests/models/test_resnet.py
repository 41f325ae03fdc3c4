"""ResNet: the paper's architecture under torchvision's names, and weights that come from a file or over the network."""

import hashlib
import io
import pickle
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from trainer.errors import UserError
from trainer.models import resnet
from trainer.models.initialise import initialise
from trainer.models.resnet import resnet18, resnet34, resnet50


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def trained() -> dict[str, Tensor]:
    """A whole state dict for 1000 classes that no fresh model has."""
    state = resnet18().state_dict()
    for name in state:
        if name.endswith("running_mean"):
            state[name] += 1
    return state


def saved(state: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    """Gives the files that it is handed, and remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []

    def offer(self, content: bytes, sha256: str | None = None) -> str:
        """The address of a file that is named as torchvision names its own, after its hash."""
        name = f"/resnet18-{(sha256 or hashlib.sha256(content).hexdigest())[:8]}.pth"
        self.files[name] = content
        return f"http://127.0.0.1:{self.server_port}{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """A server on this machine, and a cache of torch.hub's that is empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def cached(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "torch/hub/checkpoints").iterdir())


class TestArchitecture:
    def test_names_and_shapes_are_those_of_the_table(self):
        table = {}
        for line in (Path(__file__).parent / "resnet18_names.txt").read_text().splitlines():
            if not line.startswith("#"):
                name, *shape = line.split()
                table[name] = tuple(int(size) for size in shape)
        assert len(table) == 122
        assert {name: tuple(tensor.shape) for name, tensor in resnet18().state_dict().items()} == table

    @pytest.mark.parametrize(
        ("build", "num_parameters"), [(resnet18, 11_689_512), (resnet34, 21_797_672), (resnet50, 25_557_032)]
    )
    def test_number_of_parameters(self, build, num_parameters):
        with torch.device("meta"):  # shapes alone, no numbers
            assert sum(parameter.numel() for parameter in build().parameters()) == num_parameters

    @pytest.mark.parametrize(("build", "num_layers"), [(resnet18, 18), (resnet34, 34), (resnet50, 50)])
    def test_number_of_layers(self, build, num_layers):
        with torch.device("meta"):
            model = build()
        layers = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        assert len([name for name in layers if "downsample" not in name]) == num_layers

    @pytest.mark.parametrize(("build", "width"), [(resnet18, 64), (resnet34, 64), (resnet50, 256)])
    def test_each_stage_has_the_tables_output_size(self, build, width):
        with torch.device("meta"):
            model, images = build(num_classes=7), torch.empty(2, 3, 224, 224)
        sizes = []
        for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
            stage.register_forward_hook(lambda _module, _inputs, maps: sizes.append(tuple(maps.shape)))
        assert model(images).shape == (2, 7)
        assert sizes == [(2, width, 56, 56), (2, 2 * width, 28, 28), (2, 4 * width, 14, 14), (2, 8 * width, 7, 7)]

    def test_the_bottlenecks_stride_lies_in_the_3x3(self):
        block = resnet50().layer2[0]
        assert [block.conv1.stride, block.conv2.stride, block.conv3.stride] == [(1, 1), (2, 2), (1, 1)]

    def test_a_block_adds_its_input(self):
        block = resnet18().layer1[0]
        nn.init.zeros_(block.bn2.weight)
        inputs = torch.randn(2, 64, 8, 8)
        assert torch.equal(block(inputs), inputs.relu())

    def test_gradients_survive_what_is_done_in_place(self):
        block = resnet50(num_classes=2).layer2[0].double()
        inputs = torch.randn(3, 256, 4, 4, dtype=torch.float64, requires_grad=True)
        direction = torch.randn_like(inputs)
        (grad,) = torch.autograd.grad(block(inputs).square().sum(), inputs)
        with torch.no_grad():
            ahead, behind = (block(inputs + h * direction).square().sum() for h in (1e-6, -1e-6))
        assert ((ahead - behind) / 2e-6).item() == pytest.approx((grad * direction).sum().item(), rel=1e-6)

    def test_convolutions_start_with_the_fan_of_their_outputs(self):
        convolution = resnet18().layer3[0].conv1  # 128 channels to 256, 3x3
        assert convolution.weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)

    def test_any_number_of_channels_and_any_size(self):
        assert resnet18(num_classes=5, in_channels=1)(torch.randn(3, 1, 28, 28)).shape == (3, 5)

    @pytest.mark.parametrize("name", ["num_classes", "in_channels"])
    def test_a_size_below_one_is_refused(self, name):
        with pytest.raises(ValueError, match=f"^{name}=0: "):
            resnet18(**{name: 0})


class TestFile:
    def test_a_state_dict_loads_whole(self, trained, tmp_path):
        torch.save(trained, tmp_path / "trained.pth")
        model = resnet18(weights=str(tmp_path / "trained.pth"))
        assert all(torch.equal(tensor, trained[name]) for name, tensor in model.state_dict().items())

    def test_of_the_old_format_and_without_batch_counts_too(self, trained, tmp_path):
        """As the oldest files are: a batch norm did not always count its batches."""
        old = {name: tensor for name, tensor in trained.items() if not name.endswith("num_batches_tracked")}
        torch.save(old, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
        state = resnet18(weights=str(tmp_path / "old.pth")).state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in old.items())

    def test_with_another_number_of_classes_only_the_last_layer_starts_anew(self, trained, tmp_path):
        torch.save(trained, tmp_path / "trained.pth")
        torch.manual_seed(1)
        fresh = resnet18(num_classes=10).fc
        torch.manual_seed(1)
        model = resnet18(num_classes=10, weights=str(tmp_path / "trained.pth"))
        assert model.fitted == [
            "120 of 122 tensors are taken from it",
            "of another size, left as they start: fc.weight ([1000, 512], here [10, 512]), fc.bias ([1000], here [10])",
        ]
        assert torch.equal(model.fc.weight, fresh.weight)
        assert torch.equal(model.fc.bias, fresh.bias)
        state = model.state_dict()
        assert all(torch.equal(state[name], trained[name]) for name in state if not name.startswith("fc."))

    @pytest.mark.parametrize(
        ("change", "complaint"),
        [
            (lambda state: state.pop("layer3.1.conv2.weight"), 'Missing key.*"layer3.1.conv2.weight"'),
            (lambda state: [state.pop("fc.weight"), state.pop("fc.bias")], 'Missing key.*"fc.weight", "fc.bias"'),
            (lambda state: state.update(extra=torch.ones(1)), 'Unexpected key.*"extra"'),
            (lambda state: state.update({"conv1.weight": torch.ones(64, 1, 7, 7)}), "size mismatch for conv1.weight"),
        ],
        ids=["missing", "no fc", "unexpected", "shape"],
    )
    def test_all_else_must_fit(self, trained, tmp_path, change, complaint):
        state = trained.copy()
        change(state)
        torch.save(state, tmp_path / "w.pth")
        with pytest.raises(UserError, match=complaint) as caught:
            resnet18(num_classes=10, weights=str(tmp_path / "w.pth"))
        assert str(caught.value).startswith(f"weights={tmp_path}/w.pth: does not fit resnet18: ")
        assert "\n" not in str(caught.value)

    def test_of_another_resnet_is_refused_in_one_line(self, trained, tmp_path):
        torch.save(trained, tmp_path / "w.pth")
        with pytest.raises(UserError, match="does not fit resnet50: ") as caught:
            resnet50(weights=str(tmp_path / "w.pth"))
        assert len(str(caught.value)) < 500
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"not a checkpoint",
            saved(resnet34().fc.state_dict())[:-100],
            saved([1, 2]),
            saved({"model": {"epoch": 3}}),
            saved({1: torch.ones(1)}),
            saved(torch.ones(3)),
        ],
        ids=["empty", "text", "cut", "list", "nested", "numbered", "tensor"],
    )
    def test_what_is_no_state_dict_is_refused(self, tmp_path, content):
        path = tmp_path / "w.pth"
        path.write_bytes(content)
        with pytest.raises(UserError, match=re.escape(f"weights={path}: not a state dict")) as caught:
            resnet18(weights=str(path))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda state: {"state_dict": state, "epoch": 3},
            lambda state: {"model": {"model_state_dict": state}},
            lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
            lambda state: {"state_dict": {f"module._orig_mod.{name}": t for name, t in state.items()}, "epoch": 3},
        ],
        ids=["in a checkpoint", "two deep", "DataParallel", "a compiled model's, of Lightning"],
    )
    def test_what_holds_a_state_dict_or_puts_a_word_before_each_name_loads(self, trained, tmp_path, wrap):
        torch.save(wrap(trained), tmp_path / "w.pth")
        state = resnet18(weights=str(tmp_path / "w.pth")).state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in trained.items())

    @pytest.mark.parametrize("name", ["best.pt", "last.pt"])
    def test_of_the_folder_of_a_run(self, trained, tmp_path, name):
        (tmp_path / "checkpoints").mkdir()
        torch.save({"state": trained}, tmp_path / "checkpoints" / name)
        state = resnet18(weights=str(tmp_path)).state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in trained.items())

    @pytest.mark.parametrize("save", [torch.save, lambda what, path: path.write_bytes(pickle.dumps(what))])
    def test_a_hostile_pickle_runs_nothing(self, tmp_path, monkeypatch, save):
        trace = tmp_path / "it ran"

        class Hostile:
            def __reduce__(self):
                return Path.touch, (trace,)

        save({"conv1.weight": Hostile()}, tmp_path / "w.pth")
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
        with pytest.raises(UserError, match="without running code"):
            resnet18(weights=str(tmp_path / "w.pth"))
        assert not trace.exists()
        pickle.loads(pickle.dumps(Hostile()))
        assert trace.exists()  # it would have

    def test_a_missing_file_is_named_with_what_is_accepted(self):
        with pytest.raises(UserError, match=r"^weights=imagnet: no such file; accepted .* Did you mean imagenet\?$"):
            resnet18(weights="imagnet")

    def test_a_folder_is_refused(self, tmp_path):
        with pytest.raises(UserError, match=re.escape(f"weights={tmp_path}: the folder holds no checkpoints/best.pt")):
            resnet18(weights=str(tmp_path))

    def test_loaded_weights_are_not_drawn_anew(self, trained, tmp_path):
        torch.save(trained, tmp_path / "w.pth")
        with pytest.raises(ValueError, match=r"^init=kaiming: all weights of this model are loaded"):
            initialise(resnet18(weights=str(tmp_path / "w.pth")), "kaiming")


class TestImagenet:
    @pytest.mark.parametrize("word", ["imagenet", "IMAGENET1K_V1"])
    def test_is_fetched_once_and_then_read_from_the_cache(self, server, trained, monkeypatch, tmp_path, capsys, word):
        url = server.offer(saved(trained))
        monkeypatch.setitem(resnet.IMAGENET, "resnet18", url)
        for _ in range(2):
            state = resnet18(weights=word).state_dict()
            assert all(torch.equal(tensor, trained[name]) for name, tensor in state.items())
        assert server.asked == [url[url.rindex("/") :]]
        assert [path.name for path in cached(tmp_path)] == [url.rpartition("/")[2]]
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.count("\n") == 1
        assert url in printed.err

    def test_a_wrong_hash_is_refused_and_nothing_stays(self, server, trained, monkeypatch, tmp_path):
        url = server.offer(saved(trained), sha256="0123456789abcdef")
        monkeypatch.setitem(resnet.IMAGENET, "resnet18", url)
        with pytest.raises(UserError, match=f"cannot fetch {url}: invalid hash value") as caught:
            resnet18(weights="imagenet")
        assert "\n" not in str(caught.value)
        assert cached(tmp_path) == []

    def test_a_file_cut_on_the_way_is_refused_and_nothing_stays(self, server, trained, monkeypatch, tmp_path):
        content = saved(trained)
        url = server.offer(content[: len(content) // 2], hashlib.sha256(content).hexdigest())
        monkeypatch.setitem(resnet.IMAGENET, "resnet18", url)
        with pytest.raises(UserError, match="invalid hash value"):
            resnet18(weights="imagenet")
        assert cached(tmp_path) == []

    def test_a_file_that_is_gone_is_refused(self, server, monkeypatch):
        url = f"http://127.0.0.1:{server.server_port}/resnet18-01234567.pth"
        monkeypatch.setitem(resnet.IMAGENET, "resnet18", url)
        with pytest.raises(
            UserError,
            match=r"^weights=imagenet: cannot fetch .*404.* Try model\.weights=<path of that file>, or model\.backbone",
        ):
            resnet18(weights="imagenet")

    def test_a_server_that_does_not_answer_is_one_line(self, server, monkeypatch):
        monkeypatch.setitem(resnet.IMAGENET, "resnet18", "http://127.0.0.1:1/resnet18-01234567.pth")
        with pytest.raises(UserError, match=r"cannot fetch .*refused") as caught:
            resnet18(weights="imagenet")
        assert "\n" not in str(caught.value)

    def test_a_damaged_file_in_the_cache_is_named(self, server, trained, monkeypatch, tmp_path):
        monkeypatch.setitem(resnet.IMAGENET, "resnet18", server.offer(saved(trained)))
        resnet18(weights="imagenet")
        (path,) = cached(tmp_path)
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(UserError, match=re.escape(f"cannot read {path}. Try again after deleting it.")):
            resnet18(weights="imagenet")

    def test_a_hostile_pickle_with_the_right_hash_runs_nothing(self, server, monkeypatch, tmp_path):
        trace = tmp_path / "it ran"

        class Hostile:
            def __reduce__(self):
                return Path.touch, (trace,)

        monkeypatch.setitem(resnet.IMAGENET, "resnet18", server.offer(saved({"conv1.weight": Hostile()})))
        with pytest.raises(UserError, match="cannot read ") as caught:
            resnet18(weights="imagenet")
        assert "\n" not in str(caught.value)
        assert not trace.exists()

    def test_the_published_files_carry_their_hash_in_their_name(self):
        assert set(resnet.IMAGENET) == {"resnet18", "resnet34", "resnet50"}
        for architecture, url in resnet.IMAGENET.items():
            assert re.fullmatch(rf"https://download\.pytorch\.org/models/{architecture}-[0-9a-f]{{8}}\.pth", url)
