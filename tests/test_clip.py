"""CLIP's archive and towers: nothing hostile in a weights file gets anywhere, and the text tower reads as OpenAI's does."""

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from inference.networks.clip import CONTEXT, Bottleneck, PictureTower, TextTower, read_archive
from inference.networks.vlpd import L2Norm, cosines
from streams.errors import BadInput, KerbwatchError, Tampered


def number(value: int) -> bytes:
    return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)


def text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def archive(path: Path, size: Sequence[int], stride: Sequence[int], *, stored: int = 16, circle: bool = False) -> Path:
    """An archive of one module with one tensor `w`, its index written opcode by opcode."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x04tQ"
    shape, steps = (b"(" + b"".join(map(number, numbers)) + b"t" for numbers in (size, stride))
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(0) + shape + steps + b"\x89}tR"
    itself = text("a") + b"h\x00s" if circle else b""
    index = b"\x80\x02c__torch__\nM\n)\x81q\x00}" + itself + text("w") + tensor + b"sb."
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("x/data.pkl", index)
        made.writestr("x/data/0", b"\0" * stored)
    return path


def test_a_tensor_written_by_hand_is_read(tmp_path: Path) -> None:
    found = read_archive(archive(tmp_path / "one.pt", (2, 2), (2, 1)))
    assert list(found) == ["w"]
    assert torch.equal(found["w"], torch.zeros(2, 2))


@pytest.mark.parametrize(
    ("size", "stride", "stored"),
    [((1 << 40,), (0,), 16), ((8,), (1,), 16), ((2,), (-1,), 16), ((2,), (9,), 16), ((1,), (1,), 7), ((1,), (1,), 0)],
    ids=["a flood from one number", "more than stored", "backwards", "beyond the end", "half a number", "nothing stored"],
)
def test_a_tensor_that_its_bytes_do_not_hold_is_refused(
    tmp_path: Path, size: Sequence[int], stride: Sequence[int], stored: int
) -> None:
    with pytest.raises(BadInput, match="read safely"):
        read_archive(archive(tmp_path / "bad.pt", size, stride, stored=stored))


def test_a_module_that_holds_itself_ends(tmp_path: Path) -> None:
    assert list(read_archive(archive(tmp_path / "circle.pt", (4,), (1,), circle=True))) == ["w"]


def test_no_damaged_archive_ends_in_anything_but_a_plain_refusal(tmp_path: Path) -> None:
    with zipfile.ZipFile(archive(tmp_path / "whole.pt", (4,), (1,))) as made:
        index = made.read("x/data.pkl")
    for at in range(2, len(index)):
        for changed in (index[:at], index[:at] + bytes([index[at] ^ 1]) + index[at + 1 :]):
            with zipfile.ZipFile(tmp_path / "cut.pt", "w") as made:
                made.writestr("x/data.pkl", changed)
                made.writestr("x/data/0", b"\0" * 16)
            try:
                read_archive(tmp_path / "cut.pt")
            except KerbwatchError:
                continue


def test_an_archive_is_compared_with_the_published_digest(tmp_path: Path) -> None:
    path = archive(tmp_path / "one.pt", (4,), (1,))
    assert "w" in read_archive(path, hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(Tampered, match="do not use it"):
        read_archive(path, "0" * 64)


def test_a_text_hears_only_what_comes_before() -> None:
    torch.manual_seed(0)
    state = {
        "token_embedding.weight": torch.randn(50, 64),
        "positional_embedding": torch.randn(CONTEXT, 64),
        "text_projection": torch.randn(64, 16),
        "ln_final.weight": torch.ones(64),
        "ln_final.bias": torch.zeros(64),
    }
    inner = {
        "attn.in_proj_weight": (192, 64),
        "attn.in_proj_bias": (192,),
        "attn.out_proj.weight": (64, 64),
        "attn.out_proj.bias": (64,),
        "ln_1.weight": (64,),
        "ln_1.bias": (64,),
        "mlp.c_fc.weight": (256, 64),
        "mlp.c_fc.bias": (256,),
        "mlp.c_proj.weight": (64, 256),
        "mlp.c_proj.bias": (64,),
        "ln_2.weight": (64,),
        "ln_2.bias": (64,),
    }
    state |= {f"transformer.resblocks.0.{name}": torch.randn(shape) * 0.1 for name, shape in inner.items()}
    texts = torch.zeros(3, CONTEXT, dtype=torch.long)
    texts[:, :4] = torch.tensor([[48, 5, 6, 49], [48, 5, 6, 49], [48, 7, 6, 49]])
    texts[1, 4:] = 3  # after the end
    with torch.no_grad():
        first, padded, other = TextTower(state)(texts)
    assert torch.allclose(first, padded, atol=1e-6)
    assert not torch.allclose(first, other, atol=1e-2)
    assert first.norm().item() == pytest.approx(1.0, abs=1e-5)


def test_the_tower_strides_by_pooling_and_dilation_keeps_the_grid() -> None:
    taps = PictureTower(8).eval()(torch.rand(1, 3, 64, 96))
    assert [tuple(tap.shape[1:]) for tap in taps] == [(32, 16, 24), (64, 8, 12), (128, 4, 6), (256, 2, 3)]
    block = Bottleneck(16, 8, dilation=2).eval()
    spot = torch.zeros(1, 16, 9, 9)
    spot[..., 4, 4] = 1.0
    moved = (block(spot) - block(torch.zeros_like(spot))).abs().sum((0, 1)).nonzero()
    assert set(map(tuple, moved.tolist())) <= {(y, x) for y in (2, 4, 6) for x in (2, 4, 6)}
    assert [2, 2] in moved.tolist()


def test_a_cell_without_features_sends_no_nan_back() -> None:
    for normal in (L2Norm(4), lambda x: cosines(x, torch.eye(4))):
        cells = torch.zeros(1, 4, 2, 2, requires_grad=True)
        out = normal(cells)
        assert torch.isfinite(out).all()
        out.sum().backward()
        assert cells.grad is not None
        assert torch.isfinite(cells.grad).all()
