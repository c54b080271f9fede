"""Reports of tiny models on made data, and a page taken apart."""

from __future__ import annotations

import html.parser
from pathlib import Path

import numpy as np
import torch
from training.tiny import new_run

import loss_attention as la
from loss_attention.data.sample import ImageSet
from loss_attention.evaluation.measuring import evaluate
from loss_attention.report.page import write_report
from loss_attention.training.recipe import Recipe
from loss_attention.training.run_folder import METRICS_FILE, metrics_text

VOID = {"meta", "img", "link", "br", "hr", "input"}


class Page(html.parser.HTMLParser):
    """A page taken apart: its elements in order, its text, and whether tags match."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style", "title"} & set(self.open):
            self.words.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def make_model(head: str, classes: tuple[str, ...], **options) -> la.PatchClassifier:
    torch.manual_seed(1)
    model = la.create_model(
        "vgg11_bn",
        head=head,
        num_classes=len(classes),
        class_names=classes,
        width=0.05,
        patch_kernel=5,
        threshold=0.5,
        image_size=(16, 16),
        **options,
    )
    with torch.no_grad():  # answers of unequal confidence
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_var.fill_(0.12)
    return model.eval()


def make_set(
    classes: tuple[str, ...],
    *,
    count: int = 30,
    size: int = 16,
    boxes: bool = True,
    multi_label: bool = False,
) -> ImageSet:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (count, 3, size, size), np.uint8))
    index = torch.arange(count) % len(classes)
    labels = torch.eye(len(classes), dtype=torch.uint8)[index] if multi_label else index
    place = torch.tensor([2.0, 2.0, 12.0, 12.0]).expand(count, 1, 4)
    found = (place, index[:, None]) if boxes else (None, None)
    return ImageSet(images, labels, classes, *found)


def make_run(path: Path, head: str = "loss-attention", **changes) -> Path:
    run = new_run(path, Recipe("trial", "somewhere", head=head, backbone="vgg11_bn"))
    facts = {
        "format_version": 1,
        "package_version": "0.1.0",
        "source": "made for a test",
        "multi_label": False,
        "train_images": 1234,
        "validation_images": 56,
        "parameters": 1_500_000,
        "best_epoch": 2,
        "train_seconds": 78.9,
        "versions": {"python": "3.11.4", "torch": "2.13.0"},
        "hardware": {"device": "CPU", "cores": 2, "memory_gib": 7.5},
        "command": "loss-attention train trial",
        "finished": True,
    }
    run.write_facts(facts | changes)
    run.write(METRICS_FILE, metrics_text([epoch_line(epoch) for epoch in (1, 2, 3)]))
    return path


def epoch_line(epoch: int) -> dict:
    return {
        "epoch": epoch,
        "step": 10 * epoch,
        "loss": 2.0 / epoch,
        "accuracy": 1 - 0.5 / epoch,
        "gamma": 0.1,
        "learning_rate": 0.05,
        "images_per_second": 100.0,
        "seconds": 1.0,
        "validation_loss": 2.5 / epoch,
        "validation_accuracy": 1 - 0.6 / epoch,
        "best": epoch == 2,
    }


def report_of(
    path: Path,
    head: str = "loss-attention",
    classes: tuple[str, ...] = ("ant", "bee", "cow"),
    *,
    counterpart: bool = False,
    one_vs_rest: bool = False,
    facts: dict | None = None,
    **data_options,
) -> Page:
    data = make_set(classes, **data_options)
    options = {"multi_label": data.multi_label, "one_vs_rest": one_vs_rest}
    model = make_model(head, classes, **options)
    run = make_run(path / "run", head, multi_label=data.multi_label, **(facts or {}))
    figures = evaluate(model, data, train=data)
    extra: dict = {}
    if counterpart:
        other = make_model("mean", classes, **options)
        figures_of_it = evaluate(other, data, train=data)
        extra = {
            "comparisons": {"a counterpart": figures_of_it},
            "counterparts": {"a counterpart": other},
        }
    written = write_report(run, model, data, figures, **extra)
    assert written == run / "report.html"
    assert written.stat().st_size < 5_000_000
    return Page(written)
