"""`benchmarks/slides.py`: the slides that it makes, what it measures of small ones, its page."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import measuring
import numpy as np
import pytest
import slide_classifiers
import slides
import torch
from slide_classifiers import OURS, PLAIN, TORCHMIL, PlainAttention
from slides import WORKS, Arguments, milestones
from torch import nn

from loss_attention.bags.model import BagClassifier
from loss_attention.bags.reading import read_bags
from loss_attention.errors import InputError

SMALL = Arguments(
    slides=5, distinct=3, instances=40, width=8, slides_a_turn=2, turns=2, results=Path()
)


class StandIn(nn.Module):
    """What torchmil's ABMIL is called with, and its logit's shape."""

    def __init__(self, in_shape: tuple[int, ...], att_dim: int, *, gated: bool, feat_ext: Any):
        super().__init__()
        assert (in_shape, att_dim, gated) == ((8,), slide_classifiers.UNITS, True)
        self.features, self.last = feat_ext, nn.Linear(slide_classifiers.HIDDEN, 1)

    def forward(self, bags: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.last(self.features(bags).mean(dim=1)).squeeze(-1)
        return logits


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is measured here: a process for each would take longer than all else."""

    def timed(*words: str) -> measuring.Finished:
        assert words[:2] == (sys.executable, str(Path(slides.__file__)))
        with monkeypatch.context() as patch:
            said: list[str] = []
            patch.setattr("sys.argv", ["slides.py", *words[2:]])
            patch.setattr("builtins.print", said.append)
            slides.main()
        return measuring.Finished(1.0, 1.0, "a library said so\n" + "\n".join(said))

    monkeypatch.setattr(measuring, "timed", timed)
    monkeypatch.setattr(slides, "MILESTONES", (2, 3))


@pytest.mark.usefixtures("in_this_process")
def test_every_part_of_the_page_is_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("torchmil.models")
    module.ABMIL = StandIn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchmil", ModuleType("torchmil"))
    monkeypatch.setitem(sys.modules, "torchmil.models", module)
    monkeypatch.setattr(slide_classifiers, "find_spec", lambda _: object())
    monkeypatch.setattr("importlib.metadata.version", lambda _: "1.0")
    words = [f"--{name.replace('_', '-')}={value}" for name, value in asdict(SMALL).items()]
    words = [word for word in words if not word.startswith(("--folder", "--results"))]
    monkeypatch.setattr("sys.argv", ["slides.py", *words, "--results", str(tmp_path)])
    slides.main()
    numbers = json.loads((tmp_path / "slides.json").read_text())
    text = (tmp_path / "slides.md").read_text()
    assert list(numbers["classifiers"]) == [*OURS, PLAIN, TORCHMIL]
    for name, one in numbers["classifiers"].items():
        cells = [name]
        for work in WORKS:
            assert one[work]["of_plain"]["turns"] == 2
            cells += [
                measuring.shown(one[work]["instances_per_second"], 0),
                measuring.shown(one[work]["of_plain"]),
            ]
        peaks = [f"{numbers['memory'][name][work]['2'] / 1e6:,.0f}" for work in WORKS]
        assert f"| {' | '.join([*cells, *peaks])} |" in text
    assert numbers["classifiers"][PLAIN]["training"]["of_plain"]["highest"] == 1
    for name in slides.GROWN:
        for work in WORKS:
            peaks = numbers["memory"][name][work]
            assert list(peaks) == ["2", "3", "5"]
            shown = " | ".join(f"{peak / 1e6:,.0f}" for peak in peaks.values())
            assert f"| {name} | {work} | {shown} |" in text
    assert list(numbers["memory"]["gated attention"]["training"]) == ["2"]
    assert "| after 2 | after 3 | after 5 |" in text
    command = "--slides 5 --distinct 3 --instances 40 --width 8 --slides-a-turn 2 --turns 2"
    assert f"`python benchmarks/slides.py {command}`" in text
    for said in (
        "Tried at a small size: no number here says anything",
        "5 made-up slides of 40 instances with 8 features of 16 bits",
        "(a block a row, as CLAM and TRIDENT write). 3 of the files are distinct",
        "With `--most-instances 4`, the third row",
        f"{measuring.shown(numbers['drawn_slides_per_second_of_whole'], 1)} times the slides",
        f"{measuring.shown(numbers['first_pass_instances_per_second'], 0)} instances a second",
        f"h5py {h5py.__version__}, torchmil 1.0.",
    ):
        assert said in text
    usual = {name: getattr(Arguments(), name) for name in numbers["arguments"]}
    peaks = {
        name: {work: {"10": 1, "100": 1, "1000": 1} for work in WORKS} for name in numbers["memory"]
    }
    monkeypatch.setattr(slides, "MILESTONES", (10, 100, 1000))
    full = slides.page(numbers | {"arguments": usual, "memory": peaks})
    assert "Tried" not in full
    assert (
        "1,000 made-up slides of 20,000 instances with 1,024 features of 16 bits, 41.0 MB" in full
    )


def test_slides_are_made_once_and_linked(tmp_path: Path) -> None:
    given = Arguments(slides=5, distinct=3, instances=100, width=16, folder=tmp_path / "kept")
    with slides.made_up_slides(given) as folder:
        files = sorted(folder.glob("*.h5"))
        assert len(files) == 5
        assert len({one.stat().st_ino for one in files}) == 3
        written = {one: one.stat().st_mtime_ns for one in files}
        with h5py.File(files[0]) as file:
            assert file["features"].chunks == (1, 16)
            assert file["features"].dtype == np.float16
        bags = read_bags(str(folder))
        assert bags.labels.tolist() == [0, 1, 0, 0, 1]
        assert bags.sizes.tolist() == [100] * 5
        normal, tumour = (bags.features(one).astype(float)[:2, 0].mean() for one in (0, 1))
        assert tumour > normal
        places = bags.coordinates(0)
        assert places is not None
        assert len(np.unique(places, axis=0)) == 100
    with slides.made_up_slides(given) as folder:
        assert {one: one.stat().st_mtime_ns for one in files} == written
    other = Arguments(slides=6, distinct=3, instances=100, width=16, folder=tmp_path / "kept")
    with pytest.raises(InputError, match="other settings"), slides.made_up_slides(other):
        pass


def test_the_plain_network_is_our_gated_attention() -> None:
    torch.manual_seed(1)
    plain, ours = PlainAttention(8).eval(), BagClassifier(8, 2, pooling="gated-attention").eval()
    weights = plain.state_dict()
    attention = "pooling.attention"
    same = {
        "layers.0": "hidden.0",
        f"{attention}.hidden": "tanh.0",
        f"{attention}.gate": "gate.0",
        f"{attention}.score": "score",
        "classifier": "classifier",
    }
    for name in ("tanh.0", "gate.0", "score"):
        weights[f"{name}.bias"].zero_()  # ours has none there, as printed
    loaded = ours.load_state_dict(
        {
            f"{mine}.{kind}": weights[f"{its}.{kind}"]
            for mine, its in same.items()
            for kind in ("weight", "bias")
            if not (kind == "bias" and mine.startswith(attention))
        },
        strict=False,
    )
    assert loaded.missing_keys == ["mean", "std"]
    features = torch.randn(30, 8)
    torch.testing.assert_close(ours(features[None]).logits[0], plain(features))


@pytest.mark.parametrize("name", [*OURS, PLAIN])
def test_a_classifier_learns_from_slides_and_counts_what_it_sees(name: str, tmp_path: Path) -> None:
    given = Arguments(slides=4, distinct=4, instances=40, width=8)
    folder = slides.fill(tmp_path, given)
    one = slide_classifiers.classifier(name, folder, read_bags(str(folder)), 0)
    network = one.trainer.model if isinstance(one, slide_classifiers.Ours) else one.network
    before = [parameter.clone() for parameter in network.parameters()]
    assert one.training([0, 1, 2]) == (12 if "tenth" in name else 120)
    assert not any(map(torch.equal, before, network.parameters()))
    trained = [parameter.clone() for parameter in network.parameters()]
    assert one.evaluation([0, 1]) == 80
    assert all(map(torch.equal, trained, network.parameters()))


def test_too_few_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("sys.argv", ["slides.py", "--slides-a-turn", "0"])
    with pytest.raises(SystemExit) as stop:
        slides.main()
    assert stop.value.code == 2
    assert "slides: --slides-a-turn must be at least 1, got 0" in capsys.readouterr().err


def test_memory_is_read_after_so_many_slides() -> None:
    assert milestones(1000) == [10, 100, 1000]
    assert milestones(60) == [10, 60]
    assert milestones(8) == [8]
