"""Pictures on disk as people have them: each is looked at before the first step, and what is dropped is said."""

import os
import struct
import sys
import tempfile
import time
import unicodedata
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from refusal import says
from trainer.data import image_folder, image_table, whole_files
from trainer.data import look as look_module
from trainer.data.batches import LoadedBatches
from trainer.data.image_files import MAX_PIXELS, FolderImages, read_picture
from trainer.data.item_parts import Pictures
from trainer.data.look import is_plain_jpeg, is_plain_png, look
from trainer.data.source import Data
from trainer.data.upright import BACKGROUNDS
from trainer.disk.files import cache_folder
from trainer.errors import UserError

RNG = np.random.default_rng(0)


def noise(size: int = 40) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (size, size, 3), dtype=np.uint8))


def folder(root: Path, *parts: str, names: tuple[str, ...] = ("cat", "dog"), count: int = 4) -> Path:
    """`count` pictures in each class's folder, of each part."""
    for part in parts or ("",):
        for name in names:
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                noise().save(root / part / name / f"{i}.png")
    return root


def load(root: Path, **options: Any) -> Data:
    return image_folder.load(str(root), **{"val_fraction": 0.2, "test_fraction": 0.2, **options})


def paths(data: Data) -> set[str]:
    return {path for split in (data.train, data.val, data.test) for path in split.paths}  # type: ignore[union-attr]


# --- transparency --------------------------------------------------------------------------------------------------


def transparent(mode: str, path: Path) -> None:
    """Its left half is opaque black, its right half shows what is behind it."""
    alpha = Image.new("L", (16, 16), 0)
    alpha.paste(255, (0, 0, 8, 16))
    match mode:
        case "RGBA" | "LA":
            image = Image.new(mode, (16, 16), 0)
            image.putalpha(alpha)
            image.save(path)
        case "P":
            image = Image.new("P", (16, 16), 1)
            image.putpalette([0, 0, 0, 90, 90, 90])
            image.paste(0, (0, 0, 8, 16))
            image.save(path, transparency=1)
        case "RGB":  # a colour that stands for transparency
            image = Image.new("RGB", (16, 16), (9, 9, 9))
            image.paste((0, 0, 0), (0, 0, 8, 16))
            image.save(path, transparency=(9, 9, 9))
        case "L of 2 bits":  # and a level, or colour, in forms that Pillow does not write
            path.write_bytes(png(16, 16, 2, 0, bytes(2) + b"\xaa\xaa", [2]))
        case "L of 4 bits":
            path.write_bytes(png(16, 16, 4, 0, bytes(4) + b"\x55" * 4, [5]))
        case "RGB of 16 bits":
            clear = [1000, 2000, 3000]
            path.write_bytes(png(16, 16, 16, 2, bytes(8 * 6) + 8 * struct.pack(">3H", *clear), clear))


FORMS = [("RGBA", "png"), ("LA", "png"), ("P", "png"), ("RGB", "png"), ("RGBA", "webp"), ("P", "gif")]
FORMS += [("L of 2 bits", "png"), ("L of 4 bits", "png"), ("RGB of 16 bits", "png")]


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize(("mode", "suffix"), FORMS)
def test_what_is_transparent_shows_the_background(tmp_path: Path, mode: str, suffix: str, background: str) -> None:
    path = tmp_path / f"x.{suffix}"
    transparent(mode, path)
    for channels in (1, 3):
        files = FolderImages([str(path)], torch.zeros(1), background)
        files.channels, files.image_size = channels, 16
        pixels = files[0][0].float()
        assert pixels[:, :, :7].mean() < 3
        assert abs(pixels[:, :, 9:].mean() - BACKGROUNDS[background]) < 3
    with Image.open(path) as image:
        assert abs(Pictures().image(image)[:, :, 9:].float().mean() - BACKGROUNDS["white"]) < 3


def tiff(path: Path, bits: int, which_is_white: int, levels: bytes) -> None:
    """Two pixels beside each other, in a form that Pillow does not write."""
    tags = {256: 2, 257: 1, 258: bits, 259: 1, 262: which_is_white, 273: 8, 277: 1, 278: 1, 279: len(levels)}
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    header = b"II*\0" + struct.pack("<I", 12) + levels.ljust(4, b"\0")
    path.write_bytes(header + struct.pack("<H", len(tags)) + entries + bytes(4))


def grey_of_16_bits(path: Path, kind: str) -> None:
    """Two pixels, of a tenth and of nine tenths of what is white."""
    dark, bright = 6553, 58982
    if kind == "png":
        Image.fromarray(np.array([[dark, bright]], np.uint16)).save(path)
    elif kind == "png with a clear level":  # which is the dark one
        Image.fromarray(np.array([[dark, bright]], np.uint16)).save(path, transparency=dark)
    elif kind == "pgm":
        path.write_bytes(b"P5 2 1 65535\n" + struct.pack(">HH", dark, bright))
    elif kind == "pgm up to 1000":
        path.write_bytes(b"P5 2 1 1000\n" + struct.pack(">HH", 100, 900))
    elif kind == "tiff of 12 bits":
        tiff(path, 12, 1, ((dark >> 4) << 12 | bright >> 4).to_bytes(3))
    else:
        tiff(path, 16, 0, struct.pack("<HH", bright, dark))


GREYS = ("png", "png with a clear level", "pgm", "pgm up to 1000", "tiff of 12 bits", "tiff where 0 is white")


@pytest.mark.parametrize("kind", GREYS)
def test_greys_of_many_bits_are_scaled_to_8(tmp_path: Path, kind: str) -> None:
    """Pillow clips some at 255, and knows neither of the others how many bits they have nor what is clear."""
    path = tmp_path / f"x.{kind[:3]}"
    grey_of_16_bits(path, kind)
    look(FolderImages([str(path)], torch.zeros(1)))
    dark = 255 if "clear" in kind else 25
    for channels in (1, 3):
        expected = [[[dark, 230]]] * channels
        assert read_picture(path, channels, (1, 2), "white").tolist() == expected
        with Image.open(path) as opened:
            assert Pictures(channels).image(opened).tolist() == expected


def test_greys_without_a_largest_one_are_refused_at_the_first_look(tmp_path: Path) -> None:
    for mode in "FI":
        Image.new(mode, (9, 9), 1).save(tmp_path / f"{mode}.tif")
        files = FolderImages([str(tmp_path / f"{mode}.tif")], torch.zeros(1))
        says(look, f"grey levels of 32 bits, mode {mode}; accepted are 8 and 16", files=files)


def test_pictures_with_an_alpha_channel_are_counted(tmp_path: Path) -> None:
    folder(tmp_path)
    for i in range(3):
        transparent("RGBA", tmp_path / "cat" / f"t{i}.png")
    data = load(tmp_path, background="grey")
    assert data.notes == (
        "3 of 11 pictures have an alpha channel; where they are transparent, grey shows (data.background).",
    )
    assert load(tmp_path).train.marks() != data.train.marks()  # type: ignore[union-attr]


def test_pictures_of_several_frames_are_counted(tmp_path: Path) -> None:
    folder(tmp_path)
    first, second = (Image.new("L", (16, 16), level) for level in (200, 20))
    for name in ("a.gif", "a.png", "a.tif", "a.webp"):
        first.save(tmp_path / "cat" / name, save_all=True, append_images=[second])
    assert load(tmp_path).notes == (
        "4 of 12 pictures have several frames or pages; the first one is taken. Write each into a file of its own if "
        "all count.",
    )
    assert abs(float(read_picture(tmp_path / "cat" / "a.tif", 1, (16, 16), "white").float().mean()) - 200) < 1


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_greys_that_use_few_of_their_16_bits_are_said(tmp_path: Path, suffix: str) -> None:
    """As a camera of 12 bits writes them: of 4,096 levels 16 would be left."""
    for level in (0, 4095):
        Image.fromarray(np.full((8, 8), level, np.uint16)).save(tmp_path / f"{level}.{suffix}")
    files = FolderImages([str(tmp_path / f"{level}.{suffix}") for level in (0, 4095)], torch.zeros(2))
    (note,) = look(files)
    assert "those of the pictures that were looked at end at 15." in note
    Image.fromarray(np.full((8, 8), 50_000, np.uint16)).save(tmp_path / f"4095.{suffix}")
    assert look(files) == []


# --- which files are pictures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.JPG", "a.Jpeg", "a.jfif", "a.JFIF", "a.jpe", "a.TIF", "a.PNG"])
def test_every_common_ending_counts(tmp_path: Path, name: str) -> None:
    folder(tmp_path)
    kind = {"tif": "TIFF", "png": "PNG"}.get(name.split(".")[1].lower(), "JPEG")
    noise().save(tmp_path / "cat" / name, format=kind)
    assert str(tmp_path / "cat" / name) in paths(load(tmp_path))


def test_what_is_passed_over_is_counted_by_its_ending(tmp_path: Path) -> None:
    folder(tmp_path)
    for i in range(12):
        (tmp_path / "cat" / f"{i}.heic").write_bytes(b"x")
    for name in ("cat/notes.txt", "dog/README", "dog/Thumbs.db", "dog/.hidden.heic", "stray.png"):
        (tmp_path / name).write_bytes(b"x")
    (note,) = load(tmp_path).notes
    assert note.startswith(
        f"15 files in {tmp_path} are no images by their names and passed over: "
        ".heic (12), no ending (1), .png beside the classes (1), .txt (1). Accepted are .jpg, "
    )
    for i in range(4):
        (tmp_path / "cat" / f"{i}.png").unlink()
    says(load, f"there is no image in {tmp_path / 'cat'}", "It holds .heic (12), .txt (1).", root=tmp_path)


def test_a_class_is_one_however_its_accents_are_written(tmp_path: Path) -> None:
    """macOS writes the dots of an umlaut as a letter of their own, Linux writes what is typed: as a zip brings them."""
    names = ["\u00c4pfel", "Birnen", "K\u00fcrbis"]
    for split, form in (("train", "NFC"), ("val", "NFD"), ("test", "NFD")):
        folder(tmp_path / split, names=tuple(unicodedata.normalize(form, name) for name in names))
    data = load(tmp_path)
    assert data.class_names == ("Birnen", "K\u00fcrbis", "\u00c4pfel")
    for split in (data.train, data.val, data.test):
        for path, label in zip(split.paths, split.targets.tolist(), strict=True):
            assert unicodedata.normalize("NFC", Path(path).parent.name) == data.class_names[label]


def test_classes_that_differ_in_capitals_alone_are_named(tmp_path: Path) -> None:
    if (tmp_path.parent / tmp_path.name.upper()).exists():
        pytest.skip("names of any case are one here")
    folder(tmp_path, names=("Cat", "big dog", "bigdog", "cat", "fox"))
    assert load(tmp_path).notes == (
        "Cat, cat are classes of their own. If they are one, move all into one folder.",
        "big dog, bigdog are classes of their own. If they are one, move all into one folder.",
    )


def test_folders_behind_links_are_looked_into_once(tmp_path: Path) -> None:
    elsewhere = folder(tmp_path / "elsewhere", names=("more",))
    root = folder(tmp_path / "root")
    (root / "cat" / "more").symlink_to(elsewhere / "more")
    (root / "cat" / "round").symlink_to(root / "cat")  # in a circle
    (root / "cat" / "twice").symlink_to(elsewhere / "more")
    (root / "bird").symlink_to(elsewhere / "more")
    data = load(root)
    assert data.class_names == ("bird", "cat", "dog")
    assert len(data.train) + len(data.val) + len(data.test) == 16
    assert data.description.endswith("16 images, 3 classes")


# --- the first look ------------------------------------------------------------------------------------------------


def cut(path: Path, part: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])


KINDS = ["png", "jpg", "gif", "webp", "bmp", "ppm", "tif"]


@pytest.mark.parametrize("part", [0, 0.05, 0.5, 0.97])
@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_picture_is_found_at_once(tmp_path: Path, kind: str, part: float) -> None:
    path = tmp_path / f"x.{kind}"
    noise().save(path)
    files = FolderImages([str(path)], torch.zeros(1))
    assert look(files) == []
    cut(path, part)
    message = says(look, f"data.root: {path} is not a whole image (", files=files)
    assert message.endswith("Replace it or take it out.")


def test_what_a_file_ends_with_is_no_fault(tmp_path: Path) -> None:
    """Cameras append bytes; what ends unlike most is decoded before it is judged."""
    for kind in KINDS:
        noise().save(tmp_path / f"x.{kind}")
        with open(tmp_path / f"x.{kind}", "ab") as file:
            file.write(b"\0" * 100)
    assert look(FolderImages([str(tmp_path / f"x.{kind}") for kind in KINDS], torch.zeros(7))) == []


def test_a_broken_picture_of_the_test_split_stops_the_run_before_it_begins(
    tmp_path: Path, train: Callable[..., dict[str, Any]]
) -> None:
    folder(tmp_path / "p", "train", "val", "test")
    cut(tmp_path / "p/test/dog/3.png", 0.5)
    words = ["data=image_folder", "data.root=p", "data.num_workers=0", "data.image_size=32", "model=lenet"]
    words += ["max_steps=2", "monitor=off", "name=a"]
    says(lambda: train(*words), f"{tmp_path}/p/test/dog/3.png is not a whole image")
    assert not (tmp_path / "runs").exists()
    (tmp_path / "p/test/dog/3.png").unlink()  # as the line says
    assert train(*words)["status"] == "finished"


def test_a_picture_that_is_broken_within_locks_no_run_out(tmp_path: Path, train: Callable[..., dict[str, Any]]) -> None:
    """It is found when it is read: then both ways that the line proposes lead on."""
    folder(tmp_path / "p", "train", "val", "test")
    path = tmp_path / "p/test/dog/3.png"
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(99) + whole[middle + 99 :])
    words = ["data=image_folder", "data.root=p", "data.num_workers=0", "data.image_size=32", "model=lenet"]
    words += ["max_steps=2", "monitor=off"]
    message = says(lambda: train(*words, "name=a"), f"{path} is not a whole image", "Replace it; or take it out")
    assert message.endswith("type another name= if the run has begun.")
    path.write_bytes(whole)
    assert train(*words, "name=a")["status"] == "finished"
    path.unlink()
    assert train(*words, "name=b")["status"] == "finished"


def test_a_jpeg_of_which_pillow_need_not_look_at_the_header(tmp_path: Path) -> None:
    """As most are; whatever else a header has, Pillow looks at it."""
    made = {
        "plain": noise(),
        "grey": noise().convert("L"),
        "progressive": noise(),
        "inks": noise().convert("CMYK"),
        "turned": noise(),
    }
    exif = Image.Exif()
    exif[0x0112] = 6
    more: dict[str, Any] = {"progressive": {"progressive": True}, "turned": {"exif": exif}}
    heads = {}
    for name, image in made.items():
        image.save(tmp_path / f"{name}.jpg", **more.get(name, {}))
        heads[name] = (tmp_path / f"{name}.jpg").read_bytes()
    assert [name for name, head in heads.items() if is_plain_jpeg(head)] == ["plain", "grey", "progressive"]
    head, picture = heads["plain"], heads["plain"].index(b"\xff\xda")
    assert not any(is_plain_jpeg(head[:end]) for end in range(picture + 1))
    size = head.index(b"\xff\xc0") + 5
    for side in (b"\0\0", b"\xff\xff"):  # no pixel, or more than are accepted
        assert not is_plain_jpeg(head[:size] + 2 * side + head[size + 4 :])
    for name in made:
        assert look(FolderImages([str(tmp_path / f"{name}.jpg")], torch.zeros(1))) == []
        cut(tmp_path / f"{name}.jpg", 0.5)
        says(look, "is not a whole image", files=FolderImages([str(tmp_path / f"{name}.jpg")], torch.zeros(1)))


def test_a_png_of_which_pillow_need_not_look_at_the_header(tmp_path: Path) -> None:
    modes = ("RGB", "L", "P", "1", "I;16", "RGBA", "LA")
    heads = {}
    for mode in modes:
        path = tmp_path / f"{mode.replace(';', '')}.png"
        picture = Image.new("I;16", (9, 9)) if mode == "I;16" else noise(9).convert(mode)
        picture.save(path, dpi=(72, 72))
        heads[mode] = path.read_bytes()
    assert [mode for mode, head in heads.items() if is_plain_png(head)] == ["RGB", "L", "P", "1"]
    head, picture_at = heads["RGB"], heads["RGB"].index(b"IDAT")
    assert not any(is_plain_png(head[:end]) for end in range(picture_at + 4))
    for at in range(picture_at - 4):  # every byte of it is under a checksum, or its meaning is checked
        assert not is_plain_png(head[:at] + bytes([head[at] ^ 1]) + head[at + 1 :]), at
    assert not is_plain_png(png(1 << 14, 1 << 14)[:64] + head)
    transparent = tmp_path / "shown.png"
    noise(9).convert("P").save(transparent, transparency=3)
    assert not is_plain_png(transparent.read_bytes())


def test_several_broken_pictures_are_told_together(tmp_path: Path) -> None:
    folder(tmp_path, count=8)
    for i in range(5):
        cut(tmp_path / "dog" / f"{i}.png", 0.4)
    message = says(load, "data.root: 5 files are not whole images: ", " and others. Replace them", root=tmp_path)
    assert message.count("/dog/") == 3


def test_workers_find_what_one_process_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path, count=8)
    noise().convert("RGBA").save(tmp_path / "cat" / "2.png")
    alone = load(tmp_path)
    monkeypatch.setattr(look_module, "FEW", 0)
    monkeypatch.setattr(look_module, "AT_ONCE", 3)
    together = load(tmp_path, num_workers=2)
    assert together.notes == alone.notes != ()
    for split in ("train", "val", "test"):
        files = getattr(together, split)
        assert files.content() == getattr(alone, split).content()
        assert files.content() == FolderImages(files.paths, files.targets).content()
    for i in range(5):
        cut(tmp_path / "dog" / f"{i}.png", 0.5)
    said = [says(image_folder.load, "5 files", root=str(tmp_path), num_workers=n) for n in (0, 2)]
    assert said[0] == said[1]


@pytest.fixture
def kept(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which looks are kept, however few files there are."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(look_module, "MANY", 0)
    return cache_folder("looks")


def test_a_file_that_was_whole_is_not_opened_again(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept of a first look gives the same; a file that was changed, of whatever times and size, is read."""
    monkeypatch.setattr(whole_files, "SETTLED", 0.0)
    folder(tmp_path, count=8)
    noise().convert("RGBA").save(tmp_path / "cat" / "2.png")
    opened: list[str] = []
    glimpse = look_module.glimpse

    def spied(path: str, about: os.stat_result | None) -> tuple[bytes, bytes, bytes]:
        opened.append(Path(path).name)
        return glimpse(path, about)

    monkeypatch.setattr(look_module, "glimpse", spied)
    first = load(tmp_path)
    assert len(opened) == 16
    opened.clear()
    again = load(tmp_path)
    assert opened == ["2.png"]  # it has an alpha channel, which is told each time
    assert again.notes == first.notes != ()
    for split in ("train", "val", "test"):
        assert getattr(again, split).content() == getattr(first, split).content()

    path = tmp_path / "dog" / "3.png"
    content, times = path.read_bytes(), path.stat()
    path.write_bytes(content[:-100] + bytes(100))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    says(image_folder.load, "dog/3.png is not a whole image", root=str(tmp_path))
    path.write_bytes(content)
    assert load(tmp_path).test.content() == first.test.content()
    opened.clear()
    (tmp_path / "dog" / "3.png").rename(tmp_path / "dog" / "4.again.png")
    load(tmp_path)
    assert set(opened) <= {"2.png", "4.again.png"}


@pytest.mark.parametrize("year", [1902, 2106, 2400])
def test_whatever_its_time_a_whole_file_is_known(
    year: int, tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ext4 has times up to 2446, which take more than 64 bits in nanoseconds."""
    monkeypatch.setattr(whole_files, "SETTLED", 0.0)
    seconds = round((year - 1970) * 365.2425 * 86_400)
    paths = sorted(folder(tmp_path, count=8).rglob("*.png"))
    for path in paths:
        os.utime(path, (seconds, seconds))
    load(tmp_path)
    known = whole_files.Known([*map(str, paths)])
    assert known.rows_of([path.stat() for path in paths])[1].all()


def test_a_file_that_was_just_written_is_opened_again(tmp_path: Path, kept: Path) -> None:
    """It may be changed once more within a tick of the file system's clock."""
    load(folder(tmp_path, count=8))
    assert not list(kept.glob("*"))


def test_files_without_numbers_are_never_known(tmp_path: Path, kept: Path) -> None:
    """As on some file systems, where two files of one size and time could not be told apart."""
    path = tmp_path / "a.png"
    noise().save(path)
    about = os.stat(path)
    for number in (0, about.st_ino):
        facts = {name: getattr(about, name) for name in ("st_dev", "st_size", "st_mtime_ns", "st_ctime_ns")}
        its: Any = SimpleNamespace(st_ino=number, **facts)
        known = whole_files.Known([str(path)])
        known.keep(known.rows_of([its])[0].tobytes())
        assert whole_files.Known([str(path)]).rows_of([its])[1].tolist() == [number > 0]


def test_what_is_kept_of_a_look_may_be_damaged(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_files, "SETTLED", 0.0)
    first = load(folder(tmp_path, count=8))
    (file,) = kept.glob("*.pt")
    for damage in (b"", b"no tensors", file.read_bytes()[:-200]):
        file.write_bytes(damage)
        assert load(tmp_path).train.content() == first.train.content()  # type: ignore[union-attr]
        assert file.stat().st_size > len(damage)  # it was written anew


def png(
    width: int, height: int, bits: int = 1, colour: int = 0, line: bytes | None = None, clear: list[int] | None = None
) -> bytes:
    """A picture's file that says it is so large, and has the pixels: all lines alike; the level that is transparent."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    pixels = zlib.compress(height * (b"\0" + (bytes(-(-width // 8)) if line is None else line)), 1)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    if clear is not None:
        header += chunk(b"tRNS", struct.pack(f">{len(clear)}H", *clear))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def hostile(kind: str, path: Path) -> None:
    match kind:
        case "a pipe":
            os.mkfifo(path)
        case "an endless device":
            path.symlink_to("/dev/zero")
        case "a link to nothing":
            path.symlink_to(path.parent / "gone")
        case "a text":
            path.write_text("<html>not found</html>")
        case "a program":
            path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
        case "many pixels":
            path.write_bytes(png(13_000, 13_000))
        case "more pixels":
            path.write_bytes(png(30_000, 30_000))


HOSTILE = {
    "a pipe": "It is no plain file",
    "an endless device": "It is no plain file",
    "a link to nothing": "No such file",
    "a text": "cannot identify image file",
    "a program": "cannot identify image file",
    "many pixels": "13,000 x 13,000 pixels; accepted are 67,108,864",
    "more pixels": f"more than {MAX_PIXELS:,} pixels",
}


@pytest.mark.parametrize(("kind", "what"), HOSTILE.items())
def test_what_never_ends_is_refused_at_once(tmp_path: Path, kind: str, what: str) -> None:
    folder(tmp_path)
    hostile(kind, tmp_path / "cat" / "x.png")
    start = time.process_time()
    says(load, f"{tmp_path / 'cat' / 'x.png'} is not a whole image ({what}", root=tmp_path)
    assert time.process_time() - start < 2


def test_pixels_are_counted_before_they_are_decoded(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png(13_000, 13_000))
    start = time.process_time()
    says(FolderImages([str(tmp_path / "x.png")], torch.zeros(1)).__getitem__, "13,000 x 13,000 pixels", index=0)
    assert time.process_time() - start < 1


def test_what_pillow_warns_of_is_a_note(tmp_path: Path) -> None:
    folder(tmp_path)
    path = tmp_path / "cat" / "x.tif"
    noise().save(path)
    content = bytearray(path.read_bytes())
    # The number of rows in a strip (tag 278) becomes 500 numbers at the end of the file.
    tag = content.index((278).to_bytes(2, "little"), int.from_bytes(content[4:8], "little"))
    content[tag + 4 : tag + 12] = (500).to_bytes(4, "little") + (len(content) - 2).to_bytes(4, "little")
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        notes = look(FolderImages([str(path)], torch.zeros(1)))
    assert len(notes) == 1
    assert notes[0].startswith(f"1 of 1 pictures have flaws that can be lived with, such as {path} (")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python 3.12 on: beside torch's threads
@pytest.mark.parametrize("name", ["dog", "dog/deeper", "."])
def test_a_folder_that_may_not_be_read_is_named(name: str) -> None:
    """By a user without root's rights."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        root = folder(Path(place, "p"))
        (root / "dog" / "deeper").mkdir()
        (root / name).chmod(0)
        reader, writer = os.pipe()
        if (child := os.fork()) == 0:
            try:
                os.setgid(12345)
                os.setuid(12345)
                load(root)
                os.write(writer, b"it was read")
            except BaseException as error:
                os.write(writer, f"{type(error).__name__}: {error}".encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        os.close(writer)
        with os.fdopen(reader) as said:
            message = said.read()
        (root / name).chmod(0o755)
    assert message.startswith(f"UserError: data.root={root}: {root / name}: Permission denied. ")


# --- stratified splits ---------------------------------------------------------------------------------------------


def test_each_split_has_its_share_of_every_class(tmp_path: Path) -> None:
    folder(tmp_path, names=("common",), count=30)
    folder(tmp_path, names=("rare",), count=5)
    for seed in range(3):
        data = load(tmp_path, split_seed=seed)
        assert [int((split.targets == 1).sum()) for split in (data.train, data.val, data.test)] == [3, 1, 1]
    plain = [load(tmp_path, split_seed=seed, stratify=False) for seed in range(6)]
    assert len({int((data.val.targets == 1).sum()) for data in plain}) > 1


# --- pictures in a table -------------------------------------------------------------------------------------------


def table(root: Path, row: Callable[[int], str], head: str = "file,label", count: int = 12) -> str:
    (root / "images").mkdir(exist_ok=True)
    for i in range(count):
        noise().save(root / "images" / f"{i}.png")
    (root / "labels.csv").write_text("\n".join([head, *map(row, range(count))]) + "\n")
    return str(root / "labels.csv")


def test_pictures_and_labels_of_a_table(tmp_path: Path) -> None:
    path = table(tmp_path, lambda i: f"images/{i}.png,{['cat', 'dog'][i % 2]}")
    data = image_table.load(path, targets=["label"])
    assert data.class_names == ("cat", "dog")
    assert data.description == "image_table: labels.csv, 12 images, 2 classes"
    of_path = {p: int(t) for s in (data.train, data.val, data.test) for p, t in zip(s.paths, s.targets, strict=True)}  # type: ignore[union-attr]
    assert of_path == {str(tmp_path / "images" / f"{i}.png"): i % 2 for i in range(12)}
    data.train.channels, data.train.image_size = 3, 8  # type: ignore[union-attr]
    image, label = data.train[0]
    assert image.shape == (3, 8, 8)
    assert isinstance(label, int)


TABLES = {
    "a folder for the paths": (lambda i: f"{i}.png,{i % 2}", "file,label", {"root": "images"}),
    "an ending": (lambda i: f"{i},{i % 2}", "id,label", {"root": "images", "suffix": ".png", "image": "id"}),
    "backslashes": (lambda i: f"images\\{i}.png,{i % 2}", "file,label", {}),
    "other columns": (lambda i: f"{i},{i % 2},images/{i}.png,2024-01-01,x", "n,label,path,date,name", {}),
    "no names": (lambda i: f"images/{i}.png,{i % 2}", None, {"targets": [1], "image": 0}),
    "semicolons": (lambda i: f"images/{i}.png;{i % 2}", "file;label", {}),
}


@pytest.mark.parametrize(("row", "head", "options"), TABLES.values(), ids=TABLES.keys())
def test_tables_of_pictures_as_people_write_them(
    tmp_path: Path, row: Callable[[int], str], head: str | None, options: dict[str, Any]
) -> None:
    path = table(tmp_path, row, head or "")
    if "root" in options:
        options = {**options, "root": str(tmp_path / options["root"])}
    data = image_table.load(path, **{"targets": ["label"], **options})
    assert paths(data) == {str(tmp_path / "images" / f"{i}.png") for i in range(12)}
    assert data.num_classes == 2


def test_numbers_of_pictures(tmp_path: Path, train: Callable[..., dict[str, Any]]) -> None:
    path = table(tmp_path, lambda i: f"images/{i}.png,{i / 8},{-i / 8}", "file,x,y")
    data = image_table.load(path, targets=["x", "y"])
    assert data.num_classes is None
    assert data.train.targets.shape == (9, 2)
    assert data.train[0][1].shape == (2,)
    images = LoadedBatches(data.train, torch.device("cpu"), Tensor.float)
    assert next(images.in_order()).targets.dtype == torch.float32  # what a loss of torch 2.11 refuses to mix
    words = ["data=image_table", "data.path=labels.csv", "data.targets=[x,y]", "data.num_workers=0", "loss=mse"]
    assert train(*words, "model=lenet", "max_steps=1", "monitor=off", "data.image_size=32")["status"] == "finished"


def test_a_patient_s_pictures_stay_together(tmp_path: Path) -> None:
    path = table(tmp_path, lambda i: f"images/{i}.png,{i % 2},p{i // 3}", "file,label,patient")
    data = image_table.load(path, targets=["label"], group="patient")
    of_split = [{int(Path(p).stem) // 3 for p in s.paths} for s in (data.train, data.val, data.test)]  # type: ignore[union-attr]
    assert sum(map(len, of_split)) == len(set.union(*of_split)) == 4


def test_pictures_are_split_by_time(tmp_path: Path, train: Callable[..., dict[str, Any]]) -> None:
    """As the rows of a table are: training has the earliest ones, the test split the latest."""
    path = table(tmp_path, lambda i: f"images/{i}.png,{i % 2},2024-0{1 + i * 5 % 9}-{10 + i}", "file,label,taken")
    data = image_table.load(path, targets=["label"], time="taken")
    when = sorted(range(12), key=lambda i: (i * 5 % 9, i))
    of_split = [[int(Path(p).stem) for p in s.paths] for s in (data.train, data.val, data.test)]  # type: ignore[union-attr]
    assert of_split == [when[:9], when[9:10], when[10:]]
    words = ("data=image_table", "data.path=labels.csv", "data.targets=[label]", "data.time=taken", "model=lenet")
    with pytest.raises(UserError, match=r"data.group=label says where rows fall, too"):
        train(*words, "data.group=label")
    with pytest.raises(UserError, match=r"^data.split_seed: nothing reads this key"):
        train(*words, "data.split_seed=1")


@pytest.mark.skipif(sys.platform != "linux", reason="file names are any letters there alone")
def test_a_name_is_that_of_one_file_letter_by_letter(tmp_path: Path) -> None:
    """Where another file is called nearly so, a table of pictures took that one for it."""
    names = ["a b.png", "a  b.png", "7.png", "7.0.png", "x\\y.png", "x/y.png", "none.png", "e\u0301.png", "\u00e9.png"]
    (tmp_path / "x").mkdir()
    rows = [name.removesuffix(".png") for name in names]
    for level, name in enumerate(names):
        Image.new("L", (8, 8), 20 * level).save(tmp_path / name, format="PNG")
    again = ["  a b ", "a  b", "7", "7.0", "x\\y", "x/y", "none", "e\u0301", "\u00e9"]
    for written, suffix in ((names, ""), (rows, ".png"), (again, ".png")):
        path = tmp_path / "t.csv"
        path.write_text(
            "file,label\n" + "".join(f"{name},{i % 2}\n" for i, name in enumerate(written)), encoding="utf-8"
        )
        data = image_table.load(str(path), ["label"], image="file", suffix=suffix, num_workers=0)
        parts = [data.train, data.val, data.test]
        assert sorted(os.path.relpath(p, tmp_path) for part in parts for p in part.paths) == sorted(names)  # type: ignore[union-attr]
    for gone in ("7.0.png", "x\\y.png", "\u00e9.png"):  # then what another program means by it
        (tmp_path / gone).unlink()
    path.write_text("file,label\n7.0,0\nx\\y,1\n\u00e9,0\n" * 4, encoding="utf-8")
    data = image_table.load(str(path), ["label"], image="file", suffix=".png", num_workers=0)
    assert {os.path.relpath(p, tmp_path) for p in data.train.paths} == {"7.png", "x/y.png", "e\u0301.png"}  # type: ignore[union-attr]


def test_tables_that_do_not_lead_to_pictures(tmp_path: Path) -> None:
    path = table(tmp_path, lambda i: f"images/{i}.png,{i % 2}")
    load_table = image_table.load
    says(load_table, "data.targets=null: say which columns", path=path)
    says(load_table, "data.image=fil: ", "Did you mean file?", path=path, targets=["label"], image="fil")
    says(
        load_table,
        "12 of 12 images are not below",
        "data.root=",
        path=path,
        targets=["label"],
        root=str(tmp_path / "images"),
    )
    os.remove(tmp_path / "images" / "5.png")
    says(load_table, "1 of 12 images are not below", "such as images/5.png", path=path, targets=["label"])
    os.mkfifo(tmp_path / "images" / "5.png")
    says(
        load_table,
        "data.path: ",
        "images/5.png is not a whole image (It is no plain file)",
        path=path,
        targets=["label"],
    )
    os.remove(tmp_path / "images" / "5.png")
    path = table(tmp_path, lambda i: f"{i},{i % 2}")
    says(
        load_table, "data.image=null: no column holds paths of images", "data.suffix=.jpg", path=path, targets=["label"]
    )
    path = table(tmp_path, lambda i: f"{'' if i == 3 else f'images/{i}.png'},{i % 2}")
    says(load_table, "line 5, column file is empty", path=path, targets=["label"])
    path = table(tmp_path, lambda i: f"images/{i}.png,{'' if i == 3 else i % 2}")
    says(load_table, "line 5, column label: a value is missing", path=path, targets=["label"])
